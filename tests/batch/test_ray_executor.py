"""Ray on two nodes of this machine: a worker is killed, and every row is answered once, in order.

One cluster serves all tests of this file; its start and that of each worker take seconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpt_edge import Model
from mpt_edge.batch import Predictor
from mpt_edge.batch.job import Job
from mpt_edge.batch.part_worker import PartResult, PartWorker
from mpt_edge.batch.parts import Part
from mpt_edge.batch.ray_executor import RayExecutor
from mpt_edge.batch.shared_model import ModelSettings
from mpt_edge.errors import InputError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.records import Format
from tests.support.blocks import examples
from tests.support.places import ROOT
from tests.support.rows import agree, rows_of, write

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster of two nodes, each with two CPUs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class KilledOnce(PartWorker):
    """A worker whose process is killed the first time that one of its parts is part 3."""

    def __call__(self, part: Part) -> PartResult | MptEdgeError:
        marker = Path(self.model.bundle).with_name("killed")
        if part.number == 3 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(part)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_and_repeats_nothing(folder: Path, tmp_path: Path, tiny_model: Model) -> None:
    texts = [f"film {'good ' * (i % 7)}{i}" for i in range(100)]
    path = write(tmp_path / "rows.jsonl", *({"text": text} for text in texts))
    worker = KilledOnce(ModelSettings.of(folder), "topic")
    job = Job(tmp_path / "out", [(path, Format.JSONL)], worker, part_rows=10)
    result = job.run(RayExecutor(2))
    assert (tmp_path / "killed").exists()
    assert (result.parts, result.reused, result.rows, result.skipped) == (10, 0, 100, 0)
    files = sorted((tmp_path / "out").glob("part-*"))
    rows = rows_of("".join(each.read_text() for each in files))
    assert [row["line"] for row in rows] == list(range(1, 101))
    agree(rows, tiny_model, texts, "topic")
    again = job.run(RayExecutor(99))  # needs no worker
    assert (again.parts, again.reused) == (10, 10)


@pytest.mark.usefixtures("cluster")
def test_errors_of_workers(tiny_bundle: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "atom"})
    settings = ModelSettings.of(tiny_bundle)
    parts = [Part(0, str(path), Format.JSONL, 1, 0, path.read_bytes(), (), 0)]
    with pytest.raises(InputError, match=r"99 workers of 1 threads need more than the 4 CPUs of the cluster; pass"):
        list(RayExecutor(99).run(PartWorker(settings, "topic"), iter(parts)))
    ((_, error),) = RayExecutor(1).run(PartWorker(settings, "topik"), iter(parts))
    assert isinstance(error, InputError | UnknownTaskError)
    assert "did you mean 'topic'" in str(error)


@pytest.mark.usefixtures("cluster")
def test_the_page_on_ray_data(tiny_bundle: Path, tiny_model: Model) -> None:
    """The code of docs/batch.md, on this cluster, this bundle and one actor."""
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    (code,) = [each.code for each in examples(page) if "ray.init" in each.code]
    given = {"models/minilm-l6": str(tiny_bundle), '"sst2"': '"sentiment"', "concurrency=2": "concurrency=1"}
    for old, new in given.items():
        assert old in code
        code = code.replace(old, new)
    lines = [line for line in code.splitlines() if not line.startswith(("ray.init", "ray.shutdown", "print"))]
    assert len(lines) == len(code.splitlines()) - 3
    names: dict[str, Any] = {"Predictor": Predictor}
    exec("\n".join(lines), names)  # noqa: S102 - our page
    rows = names["answers"].take_all()
    texts = names["reviews"]["text"].tolist()
    assert sorted(row["text"] for row in rows) == sorted(texts)
    labels = {text: tiny_model.task("sentiment")(text).label for text in set(texts)}
    assert all(row["label"] == labels[row["text"]] for row in rows)
