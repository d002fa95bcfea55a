"""Rows from arguments, text, JSON lines and CSV, and the message of every bad row."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import pytest

from mpt_edge.batch.rows import Columns, InputRow, format_of, from_arguments, from_stream
from mpt_edge.errors import InputError
from mpt_edge.formats import records
from mpt_edge.formats.records import BadRecord, Format


def read(data: bytes, form: Format, columns: Columns | None = None) -> list[InputRow | BadRecord]:
    return list(from_stream(io.BytesIO(data), "f", form, columns or Columns()).rows)


def bad(data: bytes, form: Format, columns: Columns | None = None) -> BadRecord:
    (result,) = [row for row in read(data, form, columns) if isinstance(row, BadRecord)]
    assert result.message.startswith(f"f line {result.number} ")
    assert result.message.endswith(".")
    assert "\n" not in result.message
    return result


def test_arguments() -> None:
    assert list(from_arguments(["a", "b"]).rows) == [InputRow("a", None, 1), InputRow("b", None, 2)]
    assert list(from_arguments(["a"], "b").rows) == [InputRow(("a", "b"), None, 1)]


def test_pair_needs_one_argument() -> None:
    with pytest.raises(InputError, match="--pair goes with one TEXT, but there are 2"):
        from_arguments(["a", "b"], "c")


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.csv", "csv"), ("a.txt", "text"), ("a.Parquet", "parquet")],
)
def test_format_by_suffix(name: str, form: str) -> None:
    assert format_of(Path(name)) is Format(form)


def test_unknown_suffix() -> None:
    with pytest.raises(InputError, match=r"a\.doc .*--format jsonl, csv, text or parquet"):
        format_of(Path("a.doc"))


def test_text() -> None:
    data = "\ufeffeins\r\nzwei \u2028 ü\n{drei}".encode()
    assert read(data, Format.TEXT) == [
        InputRow("eins", None, 1),
        InputRow("zwei \u2028 ü", None, 2),
        InputRow("{drei}", None, 3),
    ]


def test_empty_texts_are_rows_which_their_task_refuses() -> None:
    """`test_run.py` has the message of each."""
    assert read(b"a\n\nb\n", Format.TEXT) == [InputRow("a", None, 1), InputRow("", None, 2), InputRow("b", None, 3)]
    assert read(b'{"text": " "}\n', Format.JSONL) == [InputRow(" ", None, 1)]
    assert read(b'{"text": "a", "text_pair": ""}\n', Format.JSONL) == [InputRow(("a", ""), None, 1)]
    assert read(b"text,label\n,1\n", Format.CSV) == [InputRow("", None, 2)]
    assert list(from_arguments([" "]).rows) == [InputRow(" ", None, 1)]


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSONL])
def test_line_that_is_not_utf8(form: Format) -> None:
    result = bad(b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n', form)
    assert result.number == 2
    assert "is not UTF-8; convert the file with iconv" in result.message


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSONL])
def test_line_without_end(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 32)
    result = read(b"x" * 100 + b'\n{"text": "b"}\n', form)
    assert isinstance(result[0], BadRecord)
    assert "longer than" in result[0].message
    assert isinstance(result[1], InputRow)
    assert result[1].number == 2


def test_position_counts_the_rest_of_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 32)
    data = b"x" * 100 + b"\nb\n"
    source = from_stream(io.BytesIO(data), "f", Format.TEXT, Columns())
    assert len(list(source.rows)) == 2
    assert source.position() == len(data)


def test_line_of_exactly_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 4)
    assert read(b"abc\nabc\n", Format.TEXT) == [InputRow("abc", None, 1), InputRow("abc", None, 2)]


def test_jsonl() -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "a", "text_pair": "b", "task": "mrpc"}\n'
    data += b'{"text": "c", "text_pair": null}'
    assert read(data, Format.JSONL) == [InputRow("a", None, 1), InputRow(("a", "b"), "mrpc", 4), InputRow("c", None, 5)]


def test_spaces_around_the_name_of_a_task() -> None:
    assert read(b'{"text": "a", "task": " mrpc "}\n{"text": "b", "task": "  "}\n', Format.JSONL) == [
        InputRow("a", "mrpc", 1),
        InputRow("b", None, 2),
    ]
    assert read(b"text,task\na, mrpc\nb, \n", Format.CSV) == [InputRow("a", "mrpc", 2), InputRow("b", None, 3)]


def test_jsonl_columns() -> None:
    data = b'{"q": "a", "r": "b"}\n'
    assert read(data, Format.JSONL, Columns("q", "r")) == [InputRow(("a", "b"), None, 1)]
    assert read(data, Format.JSONL, Columns("q")) == [InputRow("a", None, 1)]


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
    ],
)
def test_bad_jsonl(line: bytes, says: str) -> None:
    result = bad(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n', Format.JSONL)
    assert result.number == 2
    assert says in result.message


def test_jsonl_row_without_the_named_pair() -> None:
    assert "--pair-column" in bad(b'{"text": "a"}\n', Format.JSONL, Columns(pair="second")).message


def test_csv() -> None:
    data = b'\xef\xbb\xbf"text",label, text_pair ,task\r\n"a, ""b""\nc",1,,\r\n\r\nd,0,e,mrpc\r\n'
    assert read(data, Format.CSV) == [InputRow('a, "b"\nc', None, 2), InputRow(("d", "e"), "mrpc", 5)]


def test_csv_cell_beyond_the_default_limit() -> None:
    (result,) = read(b"text\n" + b"x" * 200_000 + b"\n", Format.CSV)
    assert isinstance(result, InputRow)
    assert len(result.text) == 200_000


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
        (b"caf\xe9,1", "is not UTF-8"),
        (b'"a"b,1', "is not CSV"),
        (b"a\rb,1", "is not CSV"),
        (b'"caf\xe9"b,1', "is not CSV"),
    ],
)
def test_bad_csv_row(line: bytes, says: str) -> None:
    data = b"text,label\nbefore,0\n" + line + b"\nafter,0\n"
    result = bad(data, Format.CSV)
    assert result.number == 3
    assert says in result.message
    assert read(data, Format.CSV)[-1] == InputRow("after", None, 4)


def test_csv_fault_inside_a_quoted_cell_costs_one_row() -> None:
    data = b'text\n"a\ncaf\xe9\nb"\nafter\n'
    assert bad(data, Format.CSV).number == 3
    assert read(data, Format.CSV)[-1] == InputRow("after", None, 5)


def test_csv_quote_that_is_never_closed() -> None:
    assert bad(b'text\na\n"b\nc\n', Format.CSV).number == 3


def test_reads_no_further_than_asked() -> None:
    source = from_stream(io.BytesIO(b"a\nb\nc\n"), "standard input", Format.TEXT, Columns())
    assert list(islice(source.rows, 2)) == [InputRow("a", None, 1), InputRow("b", None, 2)]
    assert source.position() == 4
    assert source.locate(1234) == "standard input line 1,234"
