"""Answers as columns of a Parquet file, beside the columns of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import IO, Any

from mpt_edge.batch.answer_columns import Schema, values_of
from mpt_edge.batch.columns import arrow_type, check_free, open_batch
from mpt_edge.batch.rows import InputRow
from mpt_edge.formats.parquet import require_parquet
from mpt_edge.inference.answers import Answer

#: Bytes of answers and rows that become a row group.
_GROUP_BYTES = 16 << 20


class ParquetAnswers:
    """Writer of answers. Rows of a Parquet file keep their columns; others have task, text, text_pair and line.

    Attributes:
        rows: number of rows written or waiting for their row group.
    """

    def __init__(self, file: IO[Any], columns: Any, schema: Schema, prefix: str = "") -> None:
        """Write to an open binary file.

        Args:
            file: the file.
            columns: Arrow schema of the rows' columns; None for rows of texts.
            schema: columns of the answers.
            prefix: start of their names.

        Raises:
            InputError: the rows have a column of an answer's name.
            MissingExtraError: pyarrow is not installed.
        """
        require_parquet()
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        self.rows = 0
        self._columns, self._schema = columns, schema
        self._named = {prefix + name: kind for name, kind in schema.items()}
        texts = [("task", pa.string()), ("text", pa.string()), ("text_pair", pa.string()), ("line", pa.int64())]
        base = pa.schema(texts) if columns is None else columns
        check_free(base.names, list(self._named), "pass --answer-prefix, or rename it")
        for name, kind in self._named.items():
            base = base.append(pa.field(name, arrow_type(kind)))
        self._writer = ParquetWriter(file, base)
        self._waiting: list[Any] = []

    def __call__(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        """Add the answers to some rows."""
        if not rows:
            return
        columns = values_of(answers, self._schema)
        named = dict(zip(self._named, columns.values(), strict=True))
        self._waiting.append(open_batch(self._base(rows, answers)).extended(named, self._named, 0))
        self.rows += len(rows)
        if sum(table.nbytes for table in self._waiting) >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the rows that wait, and the end of the file, without which it cannot be read."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        waiting, self._waiting = self._waiting, []
        if waiting:
            self._writer.write_table(pa.concat_tables(waiting))

    def _base(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> Any:
        import pyarrow as pa

        if self._columns is not None:
            return _taken(rows, self._columns)
        pairs = [(row.text, None) if isinstance(row.text, str) else row.text for row in rows]
        return pa.table(
            {
                "task": pa.array([answer.task for answer in answers], pa.string()),
                "text": pa.array([first for first, _ in pairs], pa.string()),
                "text_pair": pa.array([second for _, second in pairs], pa.string()),
                "line": pa.array([row.number for row in rows], pa.int64()),
            }
        )


def _taken(rows: Sequence[InputRow], schema: Any) -> Any:
    """Return the table of all columns of some rows."""
    import pyarrow as pa

    records = [row.record for row in rows if row.record is not None]
    parts = []
    for _, group in groupby(records, lambda record: id(record[0])):
        here = list(group)
        parts.append(here[0][0].take(pa.array([position for _, position in here])))
    return pa.Table.from_batches(parts, schema)
