"""Slices: read one by one, they hold the records of the whole file, bad ones too."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest

from mpt_edge.formats.records import BadRecord, Format, Record, RecordReader
from mpt_edge.formats.slices import slices

JSONL = b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "\xc3\xbc"}\n  \n{"te\n{"text": "caf\xe9"}\n[1]\n\n{"text": "z"}'
CSV = b'\xef\xbb\xbfid,text\n1,"two\nlines, ""q"""\n\n2,5" pipe\n3\n4,"x" y\n5,caf\xe9\n6,"a\n\nb"\n7,"open\n'
TEXT = b"a\n\nb\ncaf\xe9\n\n"


def whole(data: bytes, form: Format) -> list[Record | BadRecord]:
    return list(RecordReader(io.BytesIO(data), "f", form))


@pytest.mark.parametrize(("data", "form"), [(JSONL, Format.JSONL), (CSV, Format.CSV), (TEXT, Format.TEXT)])
@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1 << 20), (2, 1 << 20), (3, 1 << 20), (100, 1), (100, 30), (100, 1 << 20)]
)
def test_slices_are_the_file(data: bytes, form: Format, rows: int, size: int) -> None:
    parts = list(slices(io.BytesIO(data), "f", form, rows, size))
    records = []
    for each in parts:
        stream = io.BytesIO(data[each.start : each.end])
        here = list(RecordReader(stream, "f", form, header=each.header, lines_before=each.lines_before))
        assert len(here) == each.rows <= rows
        records += here
    assert records == whole(data, form)
    assert any(isinstance(record, BadRecord) for record in records)
    assert len(parts) == 1 or all(first.end == second.start for first, second in pairwise(parts))


def test_a_file_without_records_has_no_slices() -> None:
    assert list(slices(io.BytesIO(b"\n \n"), "f", Format.JSONL, 10, 10)) == []
    assert list(slices(io.BytesIO(b"text\n"), "f", Format.CSV, 10, 10)) == []
