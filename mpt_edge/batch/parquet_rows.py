"""Rows of Parquet files, whose columns are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from mpt_edge.batch.rows import PAIR_COLUMN, TASK_COLUMN, Columns, InputRow, InputRows, row_of
from mpt_edge.errors import InputError
from mpt_edge.formats.parquet import open_parquet, read_batches
from mpt_edge.formats.records import BadRecord

#: Rows of an Arrow batch that is read at once.
_BATCH_ROWS = 1024

#: Noun of a row's number.
UNIT = "row"


class _Reader:
    """Rows of Arrow batches, each with the batch that it is in.

    Attributes:
        read: number of rows read so far.
    """

    def __init__(self, batches: Iterable[Any], schema: Any, name: str, columns: Columns, first: int = 1) -> None:
        missing = columns.missing(schema.names)
        if missing is not None:
            raise InputError(f"{name} {missing}")
        self.read = 0
        self._batches, self._name, self._first = batches, name, first
        self._columns = [each if each in schema.names else None for each in _read_columns(columns)]

    def rows(self) -> Iterator[InputRow | BadRecord]:
        for batch in self._batches:
            columns = [
                [None] * batch.num_rows if name is None else batch.column(name).to_pylist() for name in self._columns
            ]
            for i, (text, pair, task) in enumerate(zip(*columns, strict=True)):
                number = self._first + self.read
                self.read += 1
                row = row_of(text, pair, task, number, f"{self._name} {UNIT} {number:,}")
                yield replace(row, record=(batch, i)) if isinstance(row, InputRow) else row


def _read_columns(columns: Columns) -> tuple[str, str, str]:
    return columns.text, columns.pair or PAIR_COLUMN, TASK_COLUMN


def from_parquet(stream: BinaryIO, name: str, size: int, columns: Columns) -> InputRows:
    """Read rows from an open Parquet file of ``size`` bytes.

    Raises:
        InputError: it cannot be read, or lacks the text's column.
        MissingExtraError: pyarrow is not installed.
    """
    file = open_parquet(stream, name)
    reader = _Reader(read_batches(file, name, _BATCH_ROWS), file.schema_arrow, name, columns)
    total = max(file.metadata.num_rows, 1)
    return InputRows(name, reader.rows(), lambda: size * reader.read // total, UNIT, file.schema_arrow)


def from_table(table: Any, name: str, first: int, columns: Columns) -> InputRows:
    """Read rows from an Arrow table, the first of number ``first``. Raises InputError; see `from_parquet`."""
    reader = _Reader(table.to_batches(), table.schema, name, columns, first)
    return InputRows(name, reader.rows(), lambda: 0, UNIT, table.schema)
