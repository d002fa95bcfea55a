"""Rows of Arrow batches, with numbers and columns."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpt_edge.batch.parquet_rows import from_parquet, from_table
from mpt_edge.batch.rows import Columns, InputRow
from mpt_edge.errors import InputError
from mpt_edge.formats.records import BadRecord

TABLE = pa.table({"id": [7, 8, 9], "a": ["x", "y", None], "b": [None, "z", "w"], "task": [" one ", None, ""]})


def test_texts_pairs_and_tasks() -> None:
    first, second, third = from_table(TABLE, "f", 5, Columns("a", "b")).rows
    assert [first, second] == [InputRow("x", "one", 5), InputRow(("y", "z"), None, 6)]
    assert third == BadRecord(7, "f row 7 has null where a text belongs; write it as a string.")
    assert isinstance(second, InputRow)
    batch, position = second.record
    assert batch.column("id")[position].as_py() == 8


def test_values_of_dictionaries_and_large_strings() -> None:
    for column in (pa.array(["x", "y", "x"]).dictionary_encode(), pa.array(["x", "y", "x"], pa.large_string())):
        rows = from_table(pa.table({"text": column}), "f", 1, Columns()).rows
        assert [row.text for row in rows if isinstance(row, InputRow)] == ["x", "y", "x"]


def test_position_is_that_of_the_file() -> None:
    pq.write_table(TABLE, stream := io.BytesIO())
    source = from_parquet(stream, "f", 300, Columns("a"))
    assert source.position() == 0
    assert [row.number for row in source.rows] == [1, 2, 3]
    assert (source.position(), source.locate(3), source.schema) == (300, "f row 3", TABLE.schema)


def test_missing_column() -> None:
    with pytest.raises(InputError, match="f has no column 'text', it has 'id', 'a', 'b', 'task'; name the right one"):
        from_table(TABLE, "f", 1, Columns())
