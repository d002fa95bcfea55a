"""Input rows, one at a time: from arguments, text, JSON lines or CSV.

Files are read line by line, so a million lines need no more memory than one. A row that cannot be
read becomes a `BadRow` in its place, and reading continues.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from mpt_edge.errors import InputError
from mpt_edge.inference.text import Text

#: Size limit of a line in bytes, and of a CSV cell in characters. No task reads a thousandth of it.
MAX_LINE = 16 << 20

#: Name of rows from standard input.
STDIN = "standard input"

_PAIR = "text_pair"
_BOM = b"\xef\xbb\xbf"


class Format(StrEnum):
    """Format of rows."""

    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"


_SUFFIXES = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV, ".txt": Format.TEXT}


@dataclass(frozen=True)
class InputRow:
    """A row that was read; its text is not validated yet."""

    text: Text
    """A text, or a pair of texts."""
    task: str | None
    """Task that the row names; None for none."""
    number: int
    """Line on which the row starts, or the argument's position, from 1."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read."""

    number: int
    """Its line, from 1."""
    message: str
    """One sentence that names the line and the fix."""


@dataclass(frozen=True)
class Columns:
    """Columns of a row's texts."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text, required in every row; None reads ``text_pair`` from rows that have it."""


@dataclass(frozen=True)
class InputRows:
    """Rows and their origin."""

    name: str | None
    """Name of the file, or ``"standard input"``; None for arguments."""
    rows: Iterator[InputRow | BadRow]
    """The rows, read on demand."""
    position: Callable[[], int]
    """Function that returns the number of bytes read so far."""

    def locate(self, number: int) -> str:
        """Name a row in a message."""
        return _locate(self.name, number)


def format_of(path: Path) -> Format:
    """Return the format of a file, by its suffix.

    Raises:
        InputError: the suffix is unknown.
    """
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_SUFFIXES)
        raise InputError(f"{path} ends in none of {known}; pass --format jsonl, csv or text.") from None


def from_arguments(texts: Sequence[str], pair: str | None = None) -> InputRows:
    """Read texts from arguments; ``pair`` is the second text of a single one.

    Raises:
        InputError: there is a second text, but not one first text.
    """
    if pair is not None and len(texts) != 1:
        raise InputError(
            f"--pair goes with one TEXT, but there are {len(texts)}; put pairs in a file and pass --input."
        )
    rows = (_row(None, text, pair, None, i) for i, text in enumerate(texts, 1))
    return InputRows(None, rows, lambda: 0)


def from_stream(stream: BinaryIO, name: str, form: Format, columns: Columns) -> InputRows:
    """Read rows from an open binary stream.

    The rows raise InputError if the stream as a whole cannot be used: its CSV header is missing, or
    lacks the text's column.
    """
    lines = _Lines(stream, name)
    readers = {
        Format.JSONL: lambda: _json_rows(lines, columns),
        Format.CSV: lambda: _csv_rows(lines, columns),
        Format.TEXT: lambda: _text_rows(lines),
    }
    return InputRows(name, readers[form](), lambda: lines.position)


class _Lines:
    """Decoded lines. `fault` describes a faulty one, which is yielded all the same."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.number = 0
        self.position = 0
        self._stream = stream
        self._fault: BadRow | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.position += len(line)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            self._finish_line()
            self._fault = self.bad(f"is longer than {MAX_LINE >> 20} MiB; end each row with a line break.")
            return "\n"
        if self.number == 1:
            line = line.removeprefix(_BOM)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._fault = self.bad("is not UTF-8; convert the file with iconv.")
            return line.decode("utf-8", "replace")

    def fault(self) -> BadRow | None:
        """Return the fault found since the last call, if any."""
        fault, self._fault = self._fault, None
        return fault

    def bad(self, problem: str, number: int | None = None) -> BadRow:
        """Describe the problem of a line, by default the latest."""
        number = self.number if number is None else number
        return BadRow(number, f"{_locate(self.name, number)} {problem}")

    def _finish_line(self) -> None:
        while part := self._stream.readline(MAX_LINE):
            self.position += len(part)
            if part.endswith(b"\n"):
                return


def _text_rows(lines: _Lines) -> Iterator[InputRow | BadRow]:
    for line in lines:
        yield lines.fault() or _row(lines.name, line.rstrip("\r\n"), None, None, lines.number)


def _json_rows(lines: _Lines, columns: Columns) -> Iterator[InputRow | BadRow]:
    for line in lines:
        fault = lines.fault()
        if fault is not None:
            yield fault
        elif line.strip():
            yield _json_row(line, lines, columns)


def _json_row(line: str, lines: _Lines, columns: Columns) -> InputRow | BadRow:
    try:
        entries = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "not readable"
        return lines.bad(f"is not JSON ({reason}); write one JSON object a line, or pass --format text.")
    if not isinstance(entries, dict):
        return lines.bad('is not a JSON object; write {"text": "..."}, or pass --format text.')
    problem = _missing(list(entries), columns)
    if problem:
        return lines.bad(problem)
    return _row(
        lines.name, entries[columns.text], entries.get(columns.pair or _PAIR), entries.get("task"), lines.number
    )


def _csv_rows(lines: _Lines, columns: Columns) -> Iterator[InputRow | BadRow]:
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(lines, strict=True)
    header = _csv_header(reader, lines, columns)
    while True:
        start = lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            lines.fault()
            yield lines.bad(f"is not CSV ({error}); close every quote, and double quotes inside quoted cells.", start)
            continue
        fault = lines.fault()
        if cells is None:
            return
        if fault is not None:
            yield fault
        elif len(cells) == len(header):
            entries = dict(zip(header, cells, strict=True))
            pair, task = entries.get(columns.pair or _PAIR), entries.get("task")
            yield _row(lines.name, entries[columns.text], pair or None, task, start)
        elif cells:
            yield lines.bad(
                f"has {len(cells)} cells, but the header has {len(header)}; put quotes around texts with commas.", start
            )


def _csv_header(reader: Iterator[list[str]], lines: _Lines, columns: Columns) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise InputError(f"{_locate(lines.name, 1)} is not CSV ({error}); write a header of column names.") from error
    fault = lines.fault()
    if fault is not None:
        raise InputError(fault.message)
    if not header:
        raise InputError(f"{lines.name} does not start with a CSV header; write the column names on line 1.")
    twice = sorted({name for name in header if header.count(name) > 1} & {columns.text, columns.pair or _PAIR, "task"})
    problem = f"has the column {twice[0]!r} twice; rename one." if twice else _missing(header, columns)
    if problem:
        raise InputError(f"{lines.name} {problem}")
    return header


def _missing(names: list[str], columns: Columns) -> str:
    """Return which column is missing, as the end of a sentence; empty if none is."""
    for name, option in ((columns.text, "--text-column"), (columns.pair, "--pair-column")):
        if name is not None and name not in names:
            present = ", ".join(map(repr, names[:20])) or "none"
            return f"has no column {name!r}, it has {present}; name the right one with {option}."
    return ""


def _row(name: str | None, text: Any, pair: Any, task: Any, number: int) -> InputRow | BadRow:
    for value in (text, pair, task):
        if not isinstance(value, str) and (value is not None or value is text):
            problem = f"has {json.dumps(value)[:40]} where a text belongs; write it as a string."
            return BadRow(number, f"{_locate(name, number)} {problem}")
    return InputRow(text if pair is None else (text, pair), (task or "").strip() or None, number)


def _locate(name: str | None, number: int) -> str:
    return f"text {number}" if name is None else f"{name} line {number:,}"
