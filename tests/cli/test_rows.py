"""Rows from arguments, text, JSON lines and CSV: what is read, and what every bad row says."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import pytest

from mpt_edge.cli import rows
from mpt_edge.cli.rows import BadRow, Columns, Format, Row, format_of, from_arguments, from_stream
from mpt_edge.errors import InputError


def read(data: bytes, form: Format, columns: Columns | None = None) -> list[Row | BadRow]:
    return list(from_stream(io.BytesIO(data), "f", form, columns or Columns()).rows)


def bad(data: bytes, form: Format, columns: Columns | None = None) -> BadRow:
    (found,) = [row for row in read(data, form, columns) if isinstance(row, BadRow)]
    assert found.message.startswith(f"f line {found.number} ")
    assert found.message.endswith(".")
    assert "\n" not in found.message
    return found


def test_arguments() -> None:
    assert list(from_arguments(["a", "b"]).rows) == [Row("a", None, 1), Row("b", None, 2)]
    assert list(from_arguments(["a"], "b").rows) == [Row(("a", "b"), None, 1)]


def test_pair_needs_one_argument() -> None:
    with pytest.raises(InputError, match="--pair goes with one TEXT, but there are 2"):
        from_arguments(["a", "b"], "c")


@pytest.mark.parametrize("text", ["", "  ", "\udc80"])
def test_bad_argument(text: str) -> None:
    (found,) = from_arguments([text]).rows
    assert isinstance(found, BadRow)
    assert found.message.startswith("text 1 has ")


@pytest.mark.parametrize(
    ("name", "form"), [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.csv", "csv"), ("a.txt", "text")]
)
def test_format_by_suffix(name: str, form: str) -> None:
    assert format_of(Path(name)) is Format(form)


def test_unknown_suffix() -> None:
    with pytest.raises(InputError, match=r"a\.parquet .*--format jsonl, csv or text"):
        format_of(Path("a.parquet"))


def test_text() -> None:
    data = "\ufeffeins\r\nzwei \u2028 ü\n{drei}".encode()
    assert read(data, Format.TEXT) == [
        Row("eins", None, 1),
        Row("zwei \u2028 ü", None, 2),
        Row("{drei}", None, 3),
    ]


def test_blank_text_line_is_bad() -> None:
    found = bad(b"a\n\nb\n", Format.TEXT)
    assert found.number == 2
    assert "empty" in found.message


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSONL])
def test_line_that_is_not_utf8(form: Format) -> None:
    found = bad(b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n', form)
    assert found.number == 2
    assert "is not UTF-8; convert the file with iconv" in found.message


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSONL])
def test_line_without_end(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 32)
    found = read(b"x" * 100 + b'\n{"text": "b"}\n', form)
    assert isinstance(found[0], BadRow)
    assert "longer than" in found[0].message
    assert isinstance(found[1], Row)
    assert found[1].number == 2


def test_position_counts_what_a_line_has_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 32)
    data = b"x" * 100 + b"\nb\n"
    source = from_stream(io.BytesIO(data), "f", Format.TEXT, Columns())
    assert len(list(source.rows)) == 2
    assert source.position() == len(data)


def test_line_of_just_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 4)
    assert read(b"abc\nabc\n", Format.TEXT) == [Row("abc", None, 1), Row("abc", None, 2)]


def test_jsonl() -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "a", "text_pair": "b", "task": "mrpc"}\n'
    data += b'{"text": "c", "text_pair": null}'
    assert read(data, Format.JSONL) == [Row("a", None, 1), Row(("a", "b"), "mrpc", 4), Row("c", None, 5)]


def test_spaces_around_the_name_of_a_task() -> None:
    assert read(b'{"text": "a", "task": " mrpc "}\n{"text": "b", "task": "  "}\n', Format.JSONL) == [
        Row("a", "mrpc", 1),
        Row("b", None, 2),
    ]
    assert read(b"text,task\na, mrpc\nb, \n", Format.CSV) == [Row("a", "mrpc", 2), Row("b", None, 3)]


def test_jsonl_columns() -> None:
    data = b'{"q": "a", "r": "b"}\n'
    assert read(data, Format.JSONL, Columns("q", "r")) == [Row(("a", "b"), None, 1)]
    assert read(data, Format.JSONL, Columns("q")) == [Row("a", None, 1)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "is not JSON"),
        (b"plain words", "pass --format text"),
        (b"[" * 100_000, "is not JSON"),
        (b'["a"]', "is not a JSON object"),
        (b"{}", "has no column 'text', it has none"),
        (b'{"review": "a"}', "it has 'review'; name the right one with --text-column"),
        (b'{"text": null}', "has null where a text belongs"),
        (b'{"text": 5}', "has 5 where a text belongs"),
        (b'{"text": "a", "text_pair": ["b"]}', 'has ["b"] where a text belongs'),
        (b'{"text": "a", "task": 7}', "has 7 where a text belongs"),
        (b'{"text": " "}', "has an empty text"),
        (b'{"text": "a", "text_pair": ""}', "has an empty text"),
        (b'{"text": "\\ud800"}', "not valid Unicode"),
    ],
)
def test_bad_jsonl(line: bytes, says: str) -> None:
    found = bad(b'{"text": "before"}\n' + line + b'\n{"text": "behind"}\n', Format.JSONL)
    assert found.number == 2
    assert says in found.message


def test_jsonl_row_without_the_named_pair() -> None:
    assert "--pair-column" in bad(b'{"text": "a"}\n', Format.JSONL, Columns(pair="second")).message


def test_csv() -> None:
    data = b'\xef\xbb\xbf"text",label, text_pair ,task\r\n"a, ""b""\nc",1,,\r\n\r\nd,0,e,mrpc\r\n'
    assert read(data, Format.CSV) == [Row('a, "b"\nc', None, 2), Row(("d", "e"), "mrpc", 5)]


def test_csv_cell_beyond_the_default_limit() -> None:
    (found,) = read(b"text\n" + b"x" * 200_000 + b"\n", Format.CSV)
    assert isinstance(found, Row)
    assert len(found.text) == 200_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not start with a CSV header"),
        (b"\ntext\na\n", "does not start with a CSV header"),
        (
            b"review,label\na,1\n",
            "f has no column 'text', it has 'review', 'label'; name the right one with --text-column",
        ),
        (b"text,text\na,b\n", "'text' twice"),
        (b"text,text_pair,text_pair\na,b,c\n", "'text_pair' twice"),
        (b"text,task,task\na,b,c\n", "'task' twice"),
        (b"t\xe9xt\na\n", "line 1 is not UTF-8"),
        (b'"text\n', "is not CSV"),
    ],
)
def test_bad_csv_header(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(data, Format.CSV)


def test_csv_without_the_named_pair() -> None:
    with pytest.raises(InputError, match="--pair-column"):
        read(b"text,text_pair\na,b\n", Format.CSV, Columns(pair="second"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"a", "has 1 cells, but the header has 2"),
        (b"a,b,1", "put quotes around texts with commas"),
        (b",1", "has an empty text"),
        (b"caf\xe9,1", "is not UTF-8"),
        (b'"a"b,1', "is not CSV"),
        (b"a\rb,1", "is not CSV"),
        (b'"caf\xe9"b,1', "is not CSV"),
    ],
)
def test_bad_csv_row(line: bytes, says: str) -> None:
    data = b"text,label\nbefore,0\n" + line + b"\nbehind,0\n"
    found = bad(data, Format.CSV)
    assert found.number == 3
    assert says in found.message
    assert read(data, Format.CSV)[-1] == Row("behind", None, 4)


def test_csv_fault_inside_a_quoted_cell_costs_one_row() -> None:
    data = b'text\n"a\ncaf\xe9\nb"\nbehind\n'
    assert bad(data, Format.CSV).number == 3
    assert read(data, Format.CSV)[-1] == Row("behind", None, 5)


def test_csv_quote_that_is_never_closed() -> None:
    assert bad(b'text\na\n"b\nc\n', Format.CSV).number == 3


def test_reads_no_further_than_asked() -> None:
    source = from_stream(io.BytesIO(b"a\nb\nc\n"), "standard input", Format.TEXT, Columns())
    assert list(islice(source.rows, 2)) == [Row("a", None, 1), Row("b", None, 2)]
    assert source.position() == 4
    assert source.place(1234) == "standard input line 1,234"
