"""Slices of files of lines, each of which can be read alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mpt_edge.formats.records import TEXT_COLUMN, Format, Record, RecordReader


@dataclass(frozen=True)
class Slice:
    """Consecutive records of a file."""

    start: int
    """Offset of the first byte."""
    end: int
    """Offset after the last byte."""
    lines_before: int
    """Number of lines before the first byte."""
    rows: int
    """Number of records, readable or not."""
    header: tuple[str, ...] = ()
    """Column names of a CSV; empty where the slice starts with them."""


def slices(stream: BinaryIO, name: str, form: Format, max_rows: int, max_bytes: int) -> Iterator[Slice]:
    """Yield the slices of an open file, in order: all records, each in one slice.

    A slice ends with the record that brings it to one of the limits. JSON is not parsed.

    Raises:
        InputError: a CSV has no header.
    """
    reader = RecordReader(stream, name, Format.TEXT if form is Format.JSONL else form)
    start = lines = rows = 0
    for record in reader:
        is_blank = isinstance(record, Record) and form is Format.JSONL and not record.values[TEXT_COLUMN].strip()
        rows += not is_blank
        if rows >= max_rows or (rows and reader.position - start >= max_bytes):
            yield Slice(start, reader.position, lines, rows, tuple(reader.header) if start else ())
            start, lines, rows = reader.position, reader.lines, 0
    if rows:
        yield Slice(start, reader.position, lines, rows, tuple(reader.header) if start else ())
