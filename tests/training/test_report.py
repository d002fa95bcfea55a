"""The report of a run, and its map of the vectors against numpy's own decomposition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.report import scaling_map, write_report


@pytest.fixture
def task(tiny_vectors: Path) -> Callable[..., TaskFile]:
    """Return a function that makes a task with other vectors or metrics."""
    file = TaskFile.load(tiny_vectors / "tasks" / "sentiment.safetensors")
    return lambda **changes: replace(file, **changes)


def test_map_keeps_distances_of_scales(task: Callable[..., TaskFile]) -> None:
    rng = np.random.default_rng(0)
    tasks = [task(u=rng.normal(1, 0.3, 6), v=rng.normal(1, 0.3, 32)) for _ in range(3)]
    points = scaling_map(tasks)
    # Three points always are in a plane, so nothing is lost.
    full = np.stack([np.outer(t.u, t.v).ravel() for t in tasks])
    for j in range(3):
        for k in range(3):
            expected = np.linalg.norm(full[j] - full[k])
            assert np.linalg.norm(points[j] - points[k]) == pytest.approx(expected, abs=1e-8)


def test_map_is_that_of_principal_components(task: Callable[..., TaskFile]) -> None:
    rng = np.random.default_rng(1)
    tasks = [task(u=rng.normal(1, 0.3, 6), v=rng.normal(1, 0.3, 32)) for _ in range(8)]
    full = np.stack([np.outer(t.u, t.v).ravel() for t in tasks])
    u, s, _ = np.linalg.svd(full - full.mean(0), full_matrices=False)
    assert np.allclose(np.abs(scaling_map(tasks)), np.abs(u[:, :2] * s[:2]), atol=1e-8)


def test_report_has_the_content_of_the_files(task: Callable[..., TaskFile], tmp_path: Path) -> None:
    run = tmp_path / "a <run>"
    for i in range(4):
        metrics = {"validation": {"accuracy": 0.5 + i / 16}, "test": {"accuracy": 0.25 + i / 16}}
        probe = {"linear_probe": {"test": {"accuracy": 0.8125}}} if i == 1 else {}
        made = task(
            name=f"t{i}",
            training={"examples": 1234},
            v=np.linspace(0, i, 32).astype(np.float16),
            metrics=metrics | probe,
        )
        made.save(run / "tasks" / f"t{i}.safetensors")
    loss = {"task": 1.0, "logits": 0.0, "hidden": 0.0, "total": 1.0}
    entries = [
        {"step": 1, "loss": loss, "tasks": [0]},
        {"step": 2, "mean": 0.5, "validation": {"t0": 0.4, "t1": 0.6}},
        {"step": 4, "mean": 0.6, "validation": {"t0": 0.5, "t1": 0.7}},
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (run / "log.jsonl").write_text(lines + '{"step": 5, "lo')  # a run in progress
    write_report(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>a &lt;run&gt;</h1>" in page
    assert page.count("<svg") == 2
    assert "Map of the tasks on mpt" in page
    row = "<tr><td>t1</td><td>2</td><td>1,234</td><td>56.2</td><td>31.2</td><td>81.2</td><td>u, v</td></tr>"
    assert row in page


def test_too_few_tasks_for_a_map(task: Callable[..., TaskFile], tmp_path: Path) -> None:
    task().save(tmp_path / "tasks" / "sentiment.safetensors")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "mean": 0.5, "validation": {"sentiment": 0.5}}\n')
    write_report(tmp_path, tmp_path / "page.html")
    assert "Map of" not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", ["nothing\n", '{"loss": 1}\n', "[]\n"])
def test_damaged_log(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(line)
    with pytest.raises(InputError, match="is damaged"):
        write_report(tmp_path, tmp_path / "page.html")


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path, tmp_path / "page.html")


def test_only_tasks_on_the_same_prompt_share_a_map(task: Callable[..., TaskFile], tmp_path: Path) -> None:
    for name, prompt in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "one")):
        task(name=name, prompt=prompt, prompt_sha256=prompt).save(tmp_path / f"tasks/{name}.safetensors")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "mean": 0.5, "validation": {"a": 0.5}}\n')
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Map of the tasks on one" in page
    assert "Map of the tasks on two" not in page


@pytest.mark.parametrize(
    "entries",
    [
        [{"step": 1, "loss": {"total": 1.0}}, {"step": 2, "loss": {"other": 1.0}}],
        [{"step": 1, "validation": {"a": 0.5, "b": 0.5}}, {"step": 2, "validation": {}, "mean": 0.5}],
        [{"step": 1, "validation": {"a": float("nan")}, "mean": 0.1}],
        [{"step": 1, "loss": {}}, {"step": 1, "validation": {}}],
        [{"step": 2**53, "loss": {"total": 1e100}}, {"step": 0, "loss": {"total": -1e100}}],
        [{"step": 1, "validation": {"$\\frac{": 0.5, "<script>\x1b\n": 0.5, "x" * 9999: 0.1}, "mean": 0.5}],
        [{"step": 1}],
    ],
    ids=["loss", "validation", "nan", "empty", "large", "names", "nothing"],
)
def test_unusual_logs(tmp_path: Path, entries: list[dict[str, object]]) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "\x1b" not in page


def test_tasks_of_other_shapes_have_no_map(task: Callable[..., TaskFile], tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "mean": 0.5}\n')
    for i, (rows, width) in enumerate([(6, 32), (6, 32), (5, 32), (6, 16)]):
        ones = {"u": np.ones(rows, np.float16), "v": np.ones(width, np.float16)}
        task(name=f"t{i}", training={"examples": [i]}, **ones).save(tmp_path / f"tasks/t{i}.safetensors")
    write_report(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Map of" not in page
    assert page.count("<td>-</td><td>-</td><td>-</td><td>-</td>") == 4
