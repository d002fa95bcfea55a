"""Answers to one part: those of the command, as bytes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mpt_edge import Model
from mpt_edge.batch.part_worker import PartResult, PartWorker
from mpt_edge.batch.parts import Part
from mpt_edge.batch.shared_model import ModelSettings
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.records import Format
from tests.support.rows import agree, rows_of


@pytest.fixture(scope="module")
def settings(tiny_bundle: Path) -> ModelSettings:
    return ModelSettings.of(tiny_bundle)


def part(data: bytes, form: Format = Format.JSONL) -> Part:
    return Part(4, "f", form, 1, 10, data, (), 0)


def test_lines_keep_their_numbers(settings: ModelSettings, tiny_model: Model) -> None:
    worker: PartWorker = pickle.loads(pickle.dumps(PartWorker(settings, "topic", has_files=True)))
    result = worker(part(b'{"text": "atom"}\n{"text": "a film", "task": "sentiment"}\n'))
    assert isinstance(result, PartResult)
    rows = rows_of(result.data.decode())
    assert [(row["file"], row["line"]) for row in rows] == [("f", 11), ("f", 12)]
    agree(rows, tiny_model, ["atom", "a film"], ["topic", "sentiment"])


def test_skipped_rows_are_counted(settings: ModelSettings) -> None:
    data = b'{"text": "atom"}\n{"text"\n{"text": " "}\n'
    result = PartWorker(settings, "topic", skips=True)(part(data))
    assert isinstance(result, PartResult)
    assert (result.number, result.skipped, len(rows_of(result.data.decode()))) == (4, 2, 1)
    assert result.first_error.startswith("f line 12 is not JSON")
    error = PartWorker(settings, "topic")(part(data))
    assert isinstance(error, InputError)
    assert str(error).endswith("; or pass --on-error skip.")


def test_errors_are_results(settings: ModelSettings, tmp_path: Path) -> None:
    worker = PartWorker(ModelSettings.of(tmp_path / "none"), "topic")
    assert isinstance(worker.load(), FileNotFoundError)
    assert isinstance(worker(part(b"a", Format.TEXT)), FileNotFoundError)
    assert PartWorker(settings, "topic").load() is None
    assert not isinstance(PartWorker(settings, None)(part(b"a", Format.TEXT)), PartResult | CorruptFileError)


def test_parquet_of_skipped_rows_has_the_columns(settings: ModelSettings, tmp_path: Path) -> None:
    import pyarrow as pa

    sink = io.BytesIO()
    table = pa.table({"text": [None], "id": [1]}, schema=pa.schema([("text", pa.string()), ("id", pa.int64())]))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    result = PartWorker(settings, "topic", skips=True, prefix="x_")(part(sink.getvalue(), Format.PARQUET))
    assert isinstance(result, PartResult)
    answers = pq.read_table(io.BytesIO(result.data))
    assert (answers.num_rows, answers.schema.names[:4]) == (0, ["text", "id", "x_label", "x_score"])
