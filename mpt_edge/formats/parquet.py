"""Parquet files, by pyarrow, which is an extra."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mpt_edge._extras import require
from mpt_edge.errors import InputError
from mpt_edge.formats.records import Number


def require_parquet() -> None:
    """Import pyarrow. Raises MissingExtraError if it is not installed."""
    require("parquet", "pyarrow.parquet")


@contextmanager
def parquet_errors(name: object) -> Iterator[None]:
    """Turn errors of reading into one sentence that names the file. Raises InputError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].removesuffix(".")
        raise InputError(f"{name} cannot be read as Parquet ({reason}); write the file again.") from error


def open_parquet(stream: BinaryIO, name: object) -> Any:
    """Return a `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: the stream holds no Parquet, or has a column name twice.
        MissingExtraError: pyarrow is not installed.
    """
    require_parquet()
    from pyarrow.parquet import ParquetFile

    with parquet_errors(name):
        file = ParquetFile(stream)
        names = file.schema_arrow.names
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{name} has the column {twice!r} twice; rename one.")
    return file


def read_batches(file: Any, name: object, rows: int, groups: list[int] | None = None) -> Iterator[Any]:
    """Yield Arrow record batches of at most ``rows`` rows. Memory holds one row group's pages, not the file.

    Raises:
        InputError: the file is damaged.
    """
    with parquet_errors(name):
        batches = file.iter_batches(batch_size=rows, row_groups=groups)
    while True:
        with parquet_errors(name):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Return the records of a Parquet file; dates and numbers become text.

    Raises:
        InputError: the file cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    require_parquet()
    from pyarrow import parquet

    with parquet_errors(path):
        rows = parquet.read_table(path).to_pylist()
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """Return a Parquet value as the same value would be spelled in JSON."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int | float):
        return None if math.isnan(value) else Number(repr(value))  # NaN stands for a missing number
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
