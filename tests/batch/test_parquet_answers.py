"""Answers beside the columns of their rows; `tests/cli/test_run_parquet.py` runs the command."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpt_edge import Prediction
from mpt_edge.batch import parquet_answers
from mpt_edge.batch.answer_columns import schema_of
from mpt_edge.batch.parquet_answers import ParquetAnswers
from mpt_edge.batch.parquet_rows import from_table
from mpt_edge.batch.rows import Columns, InputRow
from mpt_edge.errors import InputError

SCHEMA = schema_of([Prediction])


def answers(count: int) -> list[Prediction]:
    return [Prediction(task="t", label=f"l{i}", score=0.5) for i in range(count)]


def test_rows_of_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_answers, "_GROUP_BYTES", 1)  # a row group each time
    table = pa.concat_tables([pa.table({"text": ["a", "b"], "id": [1, 2]}), pa.table({"text": ["c"], "id": [3]})])
    rows = [row for row in from_table(table, "f", 1, Columns()).rows if isinstance(row, InputRow)]
    writer = ParquetAnswers(file := io.BytesIO(), table.schema, SCHEMA)
    writer([rows[0], rows[2]], answers(2))
    writer([], [])
    writer([rows[1]], answers(1))
    writer.close()
    result = pq.read_table(file)
    assert result.column("id").to_pylist() == [1, 3, 2]
    assert result.column("label").to_pylist() == ["l0", "l1", "l0"]
    assert (writer.rows, pq.ParquetFile(file).num_row_groups) == (3, 2)


def test_rows_of_texts() -> None:
    writer = ParquetAnswers(file := io.BytesIO(), None, SCHEMA, "my_")
    writer([InputRow(("a", "b"), None, 4)], answers(1))
    writer.close()
    (row,) = pq.read_table(file).to_pylist()
    assert row == {
        "task": "t", "text": "a", "text_pair": "b", "line": 4,
        "my_label": "l0", "my_score": 0.5, "my_abstain": False, "my_truncated": False, "my_unknown": False,
    }  # fmt: skip


def test_taken_names() -> None:
    with pytest.raises(InputError, match="column 'score' already, which answers would replace; pass --answer-prefix"):
        ParquetAnswers(io.BytesIO(), pa.schema([("text", pa.string()), ("score", pa.float64())]), SCHEMA)
