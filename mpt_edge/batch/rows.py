"""Input rows of `mpt-edge run`: from arguments, or from the records of a file or a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from mpt_edge.errors import InputError
from mpt_edge.formats.records import (
    PARQUET_SUFFIX,
    SUFFIXES,
    TEXT_COLUMN,
    BadRecord,
    Format,
    Number,
    Record,
    RecordReader,
    check_unique,
)
from mpt_edge.inference.text import Text

#: Name of rows from standard input.
STDIN = "standard input"

#: Columns of the second text and of the task, unless others are named.
PAIR_COLUMN, TASK_COLUMN = "text_pair", "task"


@dataclass(frozen=True)
class InputRow:
    """A row that was read; its text is not validated yet."""

    text: Text
    """A text, or a pair of texts."""
    task: str | None
    """Task that the row names; None for none."""
    number: int
    """Line on which the row starts, or the argument's position, from 1."""
    record: tuple[Any, int] | None = field(default=None, compare=False, repr=False)
    """Arrow batch with all columns, and the row's position in it; None for rows of lines."""


@dataclass(frozen=True)
class Columns:
    """Columns of a row's texts."""

    text: str = TEXT_COLUMN
    """Column of the text."""
    pair: str | None = None
    """Column of the second text, required in every row; None reads ``text_pair`` from rows that have it."""

    def missing(self, names: Iterable[str]) -> str | None:
        """Return which column is missing, as the end of a sentence; None if none is."""
        present = list(names)
        for name, option in ((self.text, "--text-column"), (self.pair, "--pair-column")):
            if name is not None and name not in present:
                known = ", ".join(map(repr, present[:20])) or "none"
                return f"has no column {name!r}, it has {known}; name the right one with {option}."
        return None


@dataclass(frozen=True)
class InputRows:
    """Rows and their origin."""

    name: str | None
    """Name of the file, or ``"standard input"``; None for arguments."""
    rows: Iterator[InputRow | BadRecord]
    """The rows, read on demand."""
    position: Callable[[], int]
    """Function that returns the number of bytes read so far."""
    unit: str = "line"
    """Noun of a row's number."""
    schema: Any = None
    """Arrow schema of all columns, where they are kept."""

    def locate(self, number: int) -> str:
        """Name a row in a message."""
        return f"text {number}" if self.name is None else f"{self.name} {self.unit} {number:,}"


def format_of(path: Path) -> Format:
    """Return the format of a file, by its suffix.

    Raises:
        InputError: the suffix is unknown.
    """
    suffix = path.suffix.lower()
    if suffix == PARQUET_SUFFIX:
        return Format.PARQUET
    if suffix not in SUFFIXES:
        known = ", ".join([*SUFFIXES, PARQUET_SUFFIX])
        raise InputError(f"{path} ends in none of {known}; pass --format jsonl, csv, text or parquet.")
    return SUFFIXES[suffix]


def from_arguments(texts: Sequence[str], pair: str | None = None) -> InputRows:
    """Read texts from arguments; ``pair`` is the second text of a single one.

    Raises:
        InputError: there is a second text, but not one first text.
    """
    if pair is not None and len(texts) != 1:
        raise InputError(
            f"--pair goes with one TEXT, but there are {len(texts)}; put pairs in a file and pass --input."
        )
    rows = (InputRow(text if pair is None else (text, pair), None, i) for i, text in enumerate(texts, 1))
    return InputRows(None, rows, lambda: 0)


def from_stream(
    stream: BinaryIO, name: str, form: Format, columns: Columns, *, header: Sequence[str] = (), lines_before: int = 0
) -> InputRows:
    """Read rows from an open binary stream; ``header`` and ``lines_before`` are of a stream that starts inside a file.

    The rows raise InputError if the stream as a whole cannot be used: its CSV header is missing, or
    lacks the text's column.
    """
    reader = RecordReader(
        stream, name, form, json_hint=", or pass --format text", header=header, lines_before=lines_before
    )
    if form is Format.TEXT:  # a line has no columns
        columns = Columns()
    return InputRows(name, _rows(reader, columns), lambda: reader.position)


def _rows(reader: RecordReader, columns: Columns) -> Iterator[InputRow | BadRecord]:
    first = next(reader, None)
    if reader.header:
        check_unique(reader.header, {columns.text, columns.pair or PAIR_COLUMN, TASK_COLUMN}, reader.name)
        if (missing := columns.missing(reader.header)) is not None:
            raise InputError(f"{reader.name} {missing}")
    for record in chain([] if first is None else [first], reader):
        yield record if isinstance(record, BadRecord) else _row(record, columns, reader)


def _row(record: Record, columns: Columns, reader: RecordReader) -> InputRow | BadRecord:
    values, place = record.values, f"{reader.name} line {record.number:,}"
    missing = columns.missing(values)
    if missing is not None:
        return BadRecord(record.number, f"{place} {missing}")
    text, pair, task = values[columns.text], values.get(columns.pair or PAIR_COLUMN), values.get(TASK_COLUMN)
    if reader.header:  # an empty cell of a CSV is a missing value
        pair, task = pair or None, task or None
    return row_of(text, pair, task, record.number, place)


def row_of(text: Any, pair: Any, task: Any, number: int, place: str) -> InputRow | BadRecord:
    """Return a row, or the message about a value that is no text."""
    for value, is_required in ((text, True), (pair, False), (task, False)):
        if not _is_text(value) and (is_required or value is not None):
            shown = value if isinstance(value, Number) else json.dumps(value, default=str)[:40]
            return BadRecord(number, f"{place} has {shown} where a text belongs; write it as a string.")
    return InputRow(text if pair is None else (text, pair), (task or "").strip() or None, number)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)
