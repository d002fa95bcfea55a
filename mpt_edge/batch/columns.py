"""Column batches: dicts of arrays, pandas data frames, Arrow tables and record batches."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpt_edge.batch.answer_columns import Kind, Schema
from mpt_edge.errors import InputError


class ColumnBatch(ABC):
    """Access to a batch of columns, whatever its class."""

    def __init__(self, batch: Any) -> None:
        """Wrap a batch."""
        self._batch = batch

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the columns."""

    @abstractmethod
    def values(self, name: str) -> list[Any]:
        """Return the values of a column, which is there, as Python objects."""

    @abstractmethod
    def extended(self, columns: Mapping[str, list[Any]], schema: Schema, width: int) -> Any:
        """Return a batch of the same class with columns added; vectors have ``width`` values."""


class _Arrays(ColumnBatch):
    """A dict of NumPy arrays or lists."""

    @property
    def names(self) -> list[str]:
        return list(self._batch)

    def values(self, name: str) -> list[Any]:
        column = self._batch[name]
        return list(column.tolist() if isinstance(column, np.ndarray) else column)

    def extended(self, columns: Mapping[str, list[Any]], schema: Schema, width: int) -> Any:
        return dict(self._batch) | {name: array_of(columns[name], kind, width) for name, kind in schema.items()}


class _Frame(ColumnBatch):
    """A pandas data frame, whose index is kept."""

    @property
    def names(self) -> list[str]:
        return list(self._batch.columns)

    def values(self, name: str) -> list[Any]:
        column = self._batch[name]
        return [None if is_missing else value for value, is_missing in zip(column, column.isna(), strict=True)]

    def extended(self, columns: Mapping[str, list[Any]], schema: Schema, width: int) -> Any:  # noqa: ARG002
        import pandas as pd

        types = {Kind.TEXT: "string", Kind.NUMBER: "float64", Kind.COUNT: "Int64", Kind.FLAG: "bool"}
        index = self._batch.index
        added = {
            name: pd.Series(columns[name], index=index, dtype=types.get(kind, "object"))
            for name, kind in schema.items()
        }
        return self._batch.assign(**added)


class _Arrow(ColumnBatch):
    """An Arrow table or record batch."""

    @property
    def names(self) -> list[str]:
        return list(self._batch.schema.names)

    def values(self, name: str) -> list[Any]:
        return list(self._batch.column(name).to_pylist())

    def extended(self, columns: Mapping[str, list[Any]], schema: Schema, width: int) -> Any:  # noqa: ARG002
        import pyarrow as pa

        batch = self._batch
        for name, kind in schema.items():
            batch = batch.append_column(name, pa.array(columns[name], arrow_type(kind)))
        return batch


def open_batch(batch: object) -> ColumnBatch:
    """Return access to a batch.

    Raises:
        InputError: it is of another class, or has a column name twice.
    """
    pandas, arrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")  # whoever has a batch has imported its class
    result: ColumnBatch
    if isinstance(batch, Mapping):
        result = _Arrays(batch)
    elif pandas is not None and isinstance(batch, pandas.DataFrame):
        result = _Frame(batch)
    elif arrow is not None and isinstance(batch, arrow.Table | arrow.RecordBatch):
        result = _Arrow(batch)
    else:
        raise InputError(
            f"the batch is a {type(batch).__name__}; pass a dict of arrays, a pandas DataFrame, or an Arrow table."
        )
    names = result.names
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"the batch has the column {twice!r} twice; rename one.")
    return result


def check_free(names: Sequence[str], added: Sequence[str], fix: str) -> None:
    """Refuse answer columns that the rows have already. Raises InputError, whose sentence ends with ``fix``."""
    taken = [name for name in added if name in names]
    if taken:
        raise InputError(f"there is a column {taken[0]!r} already, which answers would replace; {fix}.")


def array_of(values: list[Any], kind: Kind, width: int) -> np.ndarray[Any, Any]:
    """Return the values of a column as an array: NaN for missing numbers, None for other missing values."""
    if kind is Kind.FLAG:
        return np.array(values, dtype=np.bool_)
    if kind is Kind.NUMBER:
        return np.array(values, dtype=np.float64)  # None becomes NaN
    if kind is Kind.COUNT and None not in values:
        return np.array(values, dtype=np.int64)
    if kind is Kind.VECTOR:
        missing = np.full(width, np.nan, dtype=np.float32)
        rows = [missing if value is None else value for value in values]
        return np.array(rows, dtype=np.float32).reshape(len(rows), width)
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def arrow_type(kind: Kind) -> Any:
    """Return the Arrow type of a column."""
    import pyarrow as pa

    token = {
        "text": pa.string(), "start": pa.int64(), "end": pa.int64(), "label": pa.string(), "score": pa.float64(),
    }  # fmt: skip
    types = {
        Kind.TEXT: pa.string(),
        Kind.NUMBER: pa.float64(),
        Kind.COUNT: pa.int64(),
        Kind.FLAG: pa.bool_(),
        Kind.VECTOR: pa.list_(pa.float32()),
        Kind.TOKENS: pa.list_(pa.struct(list(token.items()))),
    }
    return types[kind]
