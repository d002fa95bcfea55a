"""Records of text, JSON lines and CSV files, with every value as the file spells it.

Training and the command read by these rules. Lines are read one at a time, so a million of them need no
more memory than one. A record that cannot be read becomes a `BadRecord` in its place.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mpt_edge.errors import InputError

#: Size limit of a line in bytes, and of a CSV cell in characters. No task reads a thousandth of it.
MAX_LINE = 16 << 20

_BOM = b"\xef\xbb\xbf"

#: Largest number of columns of a CSV. Each row is a dict of all of them.
MAX_COLUMNS = 4096

#: Column of a text file's lines.
TEXT_COLUMN = "text"


class Format(StrEnum):
    """Format of a file of records."""

    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"
    PARQUET = "parquet"


#: Formats by file suffix.
SUFFIXES = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV, ".txt": Format.TEXT}

#: Suffix of Parquet files, which have no lines.
PARQUET_SUFFIX = ".parquet"


class Number(str):
    """A JSON number, spelled as in the file: ``4`` and ``4.0`` are different labels."""

    __slots__ = ()


@dataclass(frozen=True)
class Record:
    """One record."""

    number: int
    """Line on which it starts, from 1."""
    values: dict[str, Any]
    """Values by column: texts, `Number`, booleans, None, lists or objects."""


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be read."""

    number: int
    """Line on which it starts, from 1."""
    message: str
    """One sentence that names the line and the fix."""


class RecordReader(Iterator[Record | BadRecord]):
    """Records of an open stream.

    Iteration raises InputError if the stream as a whole cannot be used: a CSV without a header.

    Attributes:
        name: name of the file in messages.
        header: column names of a CSV, once its first record was asked for.
        position: number of bytes read so far.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        form: Format,
        *,
        json_hint: str = "",
        header: Sequence[str] = (),
        lines_before: int = 0,
    ) -> None:
        """Read from a binary stream.

        Args:
            stream: the stream.
            name: name of the file in messages.
            form: format of the records.
            json_hint: end of the message about a line that is not JSON, such as another way to read it.
            header: column names of a CSV whose first line is not in the stream.
            lines_before: number of lines of the file before the stream.
        """
        self.name, self.header = name, list(header)
        self._json_hint = json_hint
        self._lines = _Lines(stream, name, lines_before)
        readers = {Format.JSONL: self._json, Format.CSV: self._csv, Format.TEXT: self._text}
        self._records = readers[form]()

    def __next__(self) -> Record | BadRecord:
        """Return the next record."""
        return next(self._records)

    @property
    def position(self) -> int:
        """Number of bytes read so far."""
        return self._lines.position

    @property
    def lines(self) -> int:
        """Number of lines of the file read so far."""
        return self._lines.number

    def _text(self) -> Iterator[Record | BadRecord]:
        for line in self._lines:
            yield self._lines.fault() or Record(self._lines.number, {TEXT_COLUMN: line.rstrip("\r\n")})

    def _json(self) -> Iterator[Record | BadRecord]:
        for line in self._lines:
            fault = self._lines.fault()
            if fault is not None:
                yield fault
            elif line.strip():
                yield self._json_record(line)

    def _json_record(self, line: str) -> Record | BadRecord:
        try:
            values = _parse_json(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "not readable"
            return self._lines.bad(f"is not JSON ({reason}); write one JSON object a line{self._json_hint}.")
        if not isinstance(values, dict):
            return self._lines.bad(f'is not a JSON object; write {{"text": "..."}}{self._json_hint}.')
        return Record(self._lines.number, values)

    def _csv(self) -> Iterator[Record | BadRecord]:
        lines = self._lines
        csv.field_size_limit(MAX_LINE)
        reader = csv.reader(lines, strict=True)
        self.header = self.header or self._read_header(reader)
        while True:
            start = lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                lines.fault()
                yield lines.bad(f"is not CSV ({error}); close every quote, and double quotes inside cells.", start)
                continue
            fault = lines.fault()
            if cells is None:
                return
            if fault is not None:
                yield fault
            elif len(cells) == len(self.header):
                yield Record(start, dict(zip(self.header, cells, strict=True)))
            elif cells:
                problem = f"has {len(cells)} cells, but the header has {len(self.header)}"
                yield lines.bad(f"{problem}; put quotes around texts with commas.", start)

    def _read_header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = [cell.strip() for cell in next(reader, [])]
        except csv.Error as error:
            raise InputError(f"{self.name} line 1 is not CSV ({error}); write a header of column names.") from error
        fault = self._lines.fault()
        if fault is not None:
            raise InputError(fault.message)
        if len(header) > MAX_COLUMNS:
            raise InputError(
                f"{self.name} has {len(header):,} columns, more than {MAX_COLUMNS:,}; keep those that are read."
            )
        if not header:
            raise InputError(f"{self.name} does not start with a CSV header; write the column names on line 1.")
        return header


def check_unique(header: Sequence[str], used: Collection[str], name: str) -> None:
    """Refuse a CSV header that has a used column twice. Raises InputError."""
    twice = sorted(column for column in {*header} & {*used} if header.count(column) > 1)
    if twice:
        raise InputError(f"{name} has the column {twice[0]!r} twice; rename one.")


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON file that holds one list of objects. Raises InputError for any other file."""
    try:
        rows = _parse_json(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({str(error).splitlines()[0]}); correct the file.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is no list of JSON objects; write one object a line into a .jsonl file.")
    return rows


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Lines(Iterator[str]):
    """Decoded lines. A faulty line is yielded too, and `fault` describes it."""

    def __init__(self, stream: BinaryIO, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.position = 0
        self._stream = stream
        self._fault: BadRecord | None = None

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

    def fault(self) -> BadRecord | None:
        """Return the fault found since the last call, if any."""
        fault, self._fault = self._fault, None
        return fault

    def bad(self, problem: str, number: int | None = None) -> BadRecord:
        """Describe the problem of a line, by default the latest."""
        number = self.number if number is None else number
        return BadRecord(number, f"{self.name} line {number:,} {problem}")

    def _finish_line(self) -> None:
        while part := self._stream.readline(MAX_LINE):
            self.position += len(part)
            if part.endswith(b"\n"):
                return
