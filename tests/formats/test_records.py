"""Records of each format: every value as the file spells it, and one sentence for each fault."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.records import (
    MAX_LINE,
    BadRecord,
    Format,
    Number,
    Record,
    RecordReader,
    check_unique,
    read_json_list,
)


def read(content: str | bytes, form: Format, **options: str) -> list[Record | BadRecord]:
    data = content if isinstance(content, bytes) else content.encode()
    return list(RecordReader(io.BytesIO(data), "x", form, **options))


def test_lines_of_text() -> None:
    assert read("a\r\nb \n\nc", Format.TEXT) == [
        Record(1, {"text": "a"}),
        Record(2, {"text": "b "}),
        Record(3, {"text": ""}),
        Record(4, {"text": "c"}),
    ]


def test_numbers_keep_their_spelling_and_are_no_texts() -> None:
    (record,) = read('{"a": 4, "b": 4.0, "c": 1e3, "d": -0, "e": "4", "f": [1], "g": {"h": 2.50}}', Format.JSONL)
    assert isinstance(record, Record)
    values = record.values
    assert [values[key] for key in "abcde"] == ["4", "4.0", "1e3", "-0", "4"]
    assert [isinstance(values[key], Number) for key in "abcde"] == [True, True, True, True, False]
    assert isinstance(values["f"][0], Number)
    assert values["g"] == {"h": "2.50"}


def test_a_faulty_line_keeps_its_place() -> None:
    first, second, third, fourth, fifth = read('{"a": 1}\n\n{"a"\n[1]\n{"a": NaN}\n{"a": 2}', Format.JSONL)
    assert isinstance(first, Record)
    assert isinstance(fifth, Record)
    assert (first.number, fifth.number) == (1, 6)
    for bad, number in ((second, 3), (third, 4), (fourth, 5)):
        assert isinstance(bad, BadRecord)
        assert bad.number == number
        assert bad.message.startswith(f"x line {number} is not ")
        assert bad.message.endswith(".")


def test_the_hint_is_part_of_the_sentence() -> None:
    (bad,) = read("plain text", Format.JSONL, json_hint=", or pass --format text")
    assert isinstance(bad, BadRecord)
    assert bad.message.endswith("write one JSON object a line, or pass --format text.")


def test_a_csv_by_its_header() -> None:
    content = 'a , b\n1,"x, ""y""\nz"\n01,\n\n'
    assert read(content, Format.CSV) == [Record(2, {"a": "1", "b": 'x, "y"\nz'}), Record(4, {"a": "01", "b": ""})]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,3", "has 3 cells, but the header has 2"),
        ("1,2,", "has 3 cells, but the header has 2"),
        ("1", "has 1 cells, but the header has 2"),
        ('"1,2', "is not CSV"),
        ('"1"x,2', "is not CSV"),
    ],
)
def test_a_row_that_does_not_fit(row: str, problem: str) -> None:
    good, bad = read(f"a,b\nx,y\n{row}\n", Format.CSV)
    assert good == Record(2, {"a": "x", "b": "y"})
    assert isinstance(bad, BadRecord)
    assert bad.message.startswith(f"x line 3 {problem}")


def test_a_csv_without_a_header() -> None:
    for content in ("", "\n"):
        with pytest.raises(InputError, match="x does not start with a CSV header"):
            read(content, Format.CSV)


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSONL, Format.CSV])
def test_marks_encodings_and_long_lines(form: Format) -> None:
    line = {Format.TEXT: "a", Format.JSONL: '{"text": "a"}', Format.CSV: "text\na"}[form].encode()
    number = 2 if form is Format.CSV else 1
    assert read(b"\xef\xbb\xbf" + line, form) == [Record(number, {"text": "a"})]
    _, latin, long = read(line + b"\n\xe9\n" + b"x" * (MAX_LINE + 1), form)
    assert isinstance(latin, BadRecord)
    assert latin.message == f"x line {number + 1} is not UTF-8; convert the file with iconv."
    assert isinstance(long, BadRecord)
    assert long.message.startswith(f"x line {number + 2} is longer than 16 MiB")


def test_position_counts_bytes() -> None:
    reader = RecordReader(io.BytesIO("é\nb\n".encode()), "x", Format.TEXT)
    next(reader)
    assert reader.position == 3
    list(reader)
    assert reader.position == 5


def test_a_used_column_twice() -> None:
    check_unique(["a", "b", "b"], {"a", "c"}, "x")
    with pytest.raises(InputError, match="x has the column 'b' twice; rename one"):
        check_unique(["a", "b", "b"], {"b"}, "x")


def test_a_list_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1.0}, {"b": null}]')
    assert read_json_list(path) == [{"a": "1.0"}, {"b": None}]
    for content in ("{", "[1]", '{"a": 1}', "[{}, NaN]"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a\.json is no"):
            read_json_list(path)
