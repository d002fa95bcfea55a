"""Jobs: every row once and in order, resumed where they were killed, and refused where they have changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mpt_edge
from mpt_edge import Model
from mpt_edge.batch.executors import LocalExecutor, Results
from mpt_edge.batch.job import Job
from mpt_edge.batch.part_worker import PartWorker
from mpt_edge.batch.parts import Part, find_files
from mpt_edge.batch.shared_model import ModelSettings
from mpt_edge.errors import InputError
from mpt_edge.formats.locks import locked
from tests.support.rows import agree, rows_of, write

TEXTS = [f"film {'good ' * (i % 7)}{i}" for i in range(50)]


class Killed(BaseException):
    """Stands for the end of the process."""


class Recorded(LocalExecutor):
    """Counts the parts that it runs, and is killed after some of them."""

    def __init__(self, limit: int | None = None) -> None:
        self.parts: list[int] = []
        self._limit = limit

    def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
        for part, result in super().run(worker, parts):
            if len(self.parts) == self._limit:
                raise Killed
            self.parts.append(part.number)
            yield part, result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", *({"text": text} for text in TEXTS))


@pytest.fixture
def job(source: Path, tiny_bundle: Path, tmp_path: Path) -> Callable[..., Job]:
    worker = PartWorker(ModelSettings.of(tiny_bundle), "topic")

    def make(path: Path = source, part_rows: int = 8, **changes: object) -> Job:
        return Job(tmp_path / "out", find_files(path, None), replace(worker, **changes), part_rows)

    return make


def answers(folder: Path) -> list[dict[str, object]]:
    return rows_of("".join(path.read_text() for path in sorted(folder.glob("part-*.jsonl"))))


def test_parts_are_the_answers_in_order(job: Callable[..., Job], tmp_path: Path, tiny_model: Model) -> None:
    positions: list[int] = []
    result = job().run(LocalExecutor(), positions.append)
    assert (result.parts, result.reused, result.rows, result.skipped) == (7, 0, 50, 0)
    rows = answers(tmp_path / "out")
    assert [row["line"] for row in rows] == list(range(1, 51))
    agree(rows, tiny_model, TEXTS, "topic")
    assert positions == sorted(positions)
    assert positions[-1] == job().input_bytes == (tmp_path / "rows.jsonl").stat().st_size
    manifest = json.loads((tmp_path / "out" / "job.json").read_text())
    assert manifest["finished"] == {"parts": 7, "rows": 50, "skipped": 0}
    assert manifest["job"]["tasks"] == {"topic": 1}


def test_a_killed_job_goes_on(job: Callable[..., Job], tmp_path: Path) -> None:
    job().run(LocalExecutor())
    expected = answers(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with pytest.raises(Killed):
        job().run(Recorded(limit=3))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert len(before) == 3
    (tmp_path / "out" / ".part-000003.jsonl.0123abcd").write_text("half")  # as atomic_write names it
    result = job().run(again := Recorded())
    assert again.parts == [3, 4, 5, 6]
    assert (result.parts, result.reused, result.rows) == (7, 3, 50)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert answers(tmp_path / "out") == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "job.json",
        *(f"part-00000{i}.jsonl" for i in range(7)),
    ]
    assert job().run(again := Recorded()).reused == 7
    assert again.parts == []


def test_parts_that_come_in_another_order(job: Callable[..., Job], tmp_path: Path) -> None:
    class Reversed(LocalExecutor):
        def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
            yield from reversed(list(super().run(worker, parts)))

    job().run(Reversed())
    assert [row["line"] for row in answers(tmp_path / "out")] == list(range(1, 51))


def test_a_folder_of_files(job: Callable[..., Job], source: Path, tmp_path: Path, tiny_model: Model) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source.rename(folder / "b.jsonl")
    (folder / "a.csv").write_text("id,text\n1,atom\n2,ball game\n")
    (folder / "notes.md").write_text("no rows")
    job(folder, has_files=True).run(LocalExecutor())
    rows = answers(tmp_path / "out")
    assert [(Path(row["file"]).name, row["line"]) for row in rows] == [
        ("a.csv", 2),
        ("a.csv", 3),
        *(("b.jsonl", i) for i in range(1, 51)),
    ]
    agree(rows, tiny_model, ["atom", "ball game", *TEXTS], "topic")


def test_parquet(job: Callable[..., Job], tmp_path: Path, tiny_model: Model) -> None:
    table = pa.table({"id": list(range(50)), "text": TEXTS})
    pq.write_table(table, path := tmp_path / "rows.parquet", row_group_size=20)
    result = job(path, 15).run(LocalExecutor())
    answered = pa.concat_tables(pq.read_table(each) for each in sorted((tmp_path / "out").glob("part-*")))
    assert answered.select(["id", "text"]) == table
    assert answered.column("label").to_pylist() == [each.label for each in tiny_model.run(TEXTS, "topic")]
    assert job(path, 15).run(again := Recorded()).reused == result.parts
    assert again.parts == []


def test_bad_rows_stop_or_are_skipped(job: Callable[..., Job], tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", *({"text": text if i % 20 != 9 else " "} for i, text in enumerate(TEXTS)))
    with pytest.raises(InputError, match=r"bad\.jsonl line 10: the text is empty.*; or pass --on-error skip\."):
        job(path).run(LocalExecutor())
    assert len(list((tmp_path / "out").glob("part-*"))) == 1
    result = job(path, skips=True).run(Recorded())
    assert (result.reused, result.rows, result.skipped) == (1, 50, 3)
    assert "bad.jsonl line 10: the text is empty" in result.first_error
    lines = [row["line"] for row in answers(tmp_path / "out")]
    assert lines == [i for i in range(1, 51) if i % 20 != 10]
    assert job(path, skips=True).run(Recorded()).skipped == 3
    with pytest.raises(InputError, match=r"part-000001\.jsonl lacks 1 rows that an earlier run skipped; pass --on-er"):
        job(path).run(LocalExecutor())


def test_changed_jobs_are_refused(job: Callable[..., Job], source: Path, tmp_path: Path, folder: Path) -> None:
    job().run(LocalExecutor())
    ending = "; pass another folder, or delete this one."
    for changed, reason in [
        (job(part_rows=9), "its part rows differ"),
        (job(task="sentiment"), "its tasks were changed since"),
        (job(options={"max_new_tokens": 3}), "its options differ"),
    ]:
        with pytest.raises(InputError) as caught:
            changed.run(LocalExecutor())
        assert str(caught.value) == f"{tmp_path / 'out'} has parts of another job: {reason}{ending}"
    os.utime(source, (1, 1))
    with pytest.raises(InputError, match="its input was changed since, or is another"):
        job().run(LocalExecutor())


def test_a_changed_bundle_is_refused(job: Callable[..., Job], folder: Path) -> None:
    settings = ModelSettings.of(folder)
    with pytest.raises(Killed):
        job(model=settings).run(Recorded(limit=2))
    mpt_edge.Bundle.open(folder).remove("sentiment")
    with pytest.raises(InputError, match="its bundle was changed since, or is another; pass another folder"):
        job(model=settings).run(LocalExecutor())


def test_folders_of_something_else(job: Callable[..., Job], tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="has files of something else; pass an empty or a new folder as --output"):
        job().run(LocalExecutor())
    for content in ("{", "[]", '{"schema": 2, "job": {}}', '{"schema": 1}'):
        (output / "job.json").write_text(content)
        with pytest.raises(InputError, match=r"job\.json is no manifest of a job; pass another folder"):
            job().run(LocalExecutor())
    assert (output / "thesis.txt").read_text() == "mine"


def test_two_processes_in_one_folder(job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpt_edge.batch.job._WAIT", 0.0)
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".job.lock"), pytest.raises(InputError, match="another process has been changing"):
        job().run(LocalExecutor())


def test_no_rows(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"none\.jsonl holds no rows; write one row a line"):
        job(tmp_path / "none.jsonl").run(LocalExecutor())


def test_parts_are_read_as_they_are_needed(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = mpt_edge.batch.job.read_parts

    def counted(*arguments: object) -> Iterator[Part]:
        for part in original(*arguments):
            read.append(part.number)
            yield part

    monkeypatch.setattr("mpt_edge.batch.job.read_parts", counted)

    class Two(LocalExecutor):
        def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
            yield from islice(super().run(worker, parts), 2)

    job().run(Two())
    assert read == [0, 1]
