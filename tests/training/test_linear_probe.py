"""The linear probe: its metrics beside a task's, and recipes that it cannot predict."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.linear_probe import add_linear_probe, fit_linear_probe
from mpt_edge.training.objectives.encoder_reading import embed_all
from mpt_edge.training.plan import Plan
from tests.support.stages import SETTINGS, Stages


def test_metrics_are_those_of_the_best_regression(tiny: EncoderBackbone, stages: Stages) -> None:
    task = load_task(stages.recipes["field"], stages.data, test=True)
    assert task.test is not None
    metrics = fit_linear_probe(tiny, task)
    features = [embed_all(tiny, tiny.texts.encode(split.texts, 16)).numpy() for split in (task.train, task.test)]
    model = LogisticRegression(C=metrics["C"], max_iter=1000)
    model = make_pipeline(StandardScaler(), model) if metrics["standardized"] else model
    model.fit(features[0], task.train.labels)
    assert metrics["test"]["accuracy"] == pytest.approx(model.score(features[1], task.test.labels), abs=1e-4)
    assert (metrics["test"]["examples"], metrics["train_examples"]) == (6, 24)


def test_it_is_added_to_the_tasks_of_a_run(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    shutil.copytree(stages.source, tmp_path / "run")
    seen: list[str] = []
    recipes = [stages.recipes["mood"], stages.recipes["field"]]
    tasks = add_linear_probe(tiny, Plan(recipes, stages.data, tmp_path / "run", SETTINGS), seen.append)
    assert seen == [task.name for task in tasks] == ["mood", "field"]
    for task, before in zip(tasks, stages.source_tasks, strict=True):
        metrics = TaskFile.load(tmp_path / f"run/tasks/{task.name}.safetensors").metrics
        assert metrics == {**before.metrics, "linear_probe": task.metrics["linear_probe"]}
        assert set(metrics["linear_probe"]) == {"validation", "C", "standardized", "train_examples"}


def test_a_task_without_labels(tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    """It is refused before any other recipe is fitted."""
    recipes = [data[1]["mood"], replace(data[1]["field"], head_type="generation", metric="f1")]
    seen: list[str] = []
    says = "'field' generates text and a linear probe predicts labels; pass recipes with labels"
    with pytest.raises(InputError, match=says):
        add_linear_probe(tiny, Plan(recipes, data[0], tmp_path, SETTINGS), seen.append)
    assert seen == []
