"""Source and target stage from small files to vectors, and their golden examples on the device side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.prompts import SharedPrompt
from mpt_edge.taskfile import TaskFile
from mpt_edge.training.backbones import Backbone
from mpt_edge.training.data import load_task
from mpt_edge.training.recipes import Recipe
from mpt_edge.training.stages import Plan, label_texts, replace_settings, train_source, train_target
from mpt_edge.training.trainer import Progress, Settings
from mpt_edge_export import ExportPlan, export_bundle

SETTINGS = Settings(epochs=2, batch_size=8, tasks_per_step=2, prompt_rate=0.02, task_rate=0.05, seed=3)
LENGTH = 5
THINGS = ("film", "movie", "ball", "game", "vote", "law")


def silent(_: Progress) -> None:
    """Observe nothing."""


def write_task(folder: Path, name: str, words: dict[str, str], *, pair: bool = False) -> Recipe:
    (folder / name).mkdir()
    for split, rows in (("train", 24), ("validation", 8), ("test", 6)):
        lines = []
        for i in range(rows):
            label = list(words)[i % len(words)]
            row = {"text": f"a {words[label]} {THINGS[i % len(THINGS)]}", "label": label}
            lines.append(json.dumps(row | ({"text_pair": f"the {THINGS[i % 5]}"} if pair else {})))
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines))
    paths = {split: f"{name}/{split}.jsonl" for split in ("train", "validation", "test")}
    return Recipe(
        name, **paths, kind="pair" if pair else "classification", max_length=16, licence="CC0-1.0", source="x"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Recipe]]:
    folder = tmp_path_factory.mktemp("data")
    words = {
        "mood": {"negative": "dull", "positive": "witty"},
        "field": {"nature": "atom", "sky": "star", "state": "party"},
        "match": {"no": "bad", "yes": "good"},
    }
    recipes = {name: write_task(folder, name, entries, pair=name == "match") for name, entries in words.items()}
    recipes["mood"] = replace(recipes["mood"], labels={"negative": ("a bad one",), "positive": ("a good one", "great")})
    return folder, recipes


@pytest.fixture(scope="module")
def stages(
    tiny: Backbone, data: tuple[Path, dict[str, Recipe]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TaskFile], Path, list[TaskFile]]:
    """Run both stages once: two source tasks, then a target task of pairs from one of them."""
    folder, recipes = data
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(output / "cache"))
        plan = Plan([recipes["mood"], recipes["field"]], folder, output / "source", SETTINGS, test=True)
        source = train_source(tiny, plan, "shared", LENGTH, silent)
        shared = SharedPrompt.load(output / "source/prompts/shared.safetensors")
        plan = Plan([recipes["match"]], folder, output / "target", SETTINGS)
        target = train_target(tiny, plan, shared, source[0], silent)
    return output / "source", source, output / "target", target


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_source_stage_writes_prompt_and_tasks(
    tiny: Backbone, stages: tuple[Path, list[TaskFile], Path, list[TaskFile]]
) -> None:
    folder, tasks, _, _ = stages
    shared = SharedPrompt.load(folder / "prompts/shared.safetensors")
    assert (shared.name, shared.layout, shared.backbone) == ("shared", "prefix", tiny.fingerprint)
    assert (shared.values.shape, shared.values.dtype) == ((LENGTH, 32), np.float16)
    assert shared.training["tasks"] == ["mood", "field"]
    assert shared.training["seed"] == 3
    assert sorted(path.name for path in (folder / "tasks").iterdir()) == ["field.safetensors", "mood.safetensors"]
    for task in tasks:
        file = TaskFile.load(folder / "tasks" / f"{task.name}.safetensors")
        assert (file.backbone, file.tokenizer) == (tiny.fingerprint, tiny.texts.fingerprint)
        assert (file.prompt, file.prompt_sha256) == ("shared", shared.fingerprint)
        assert (file.u.shape, file.v.shape, file.u.dtype) == ((LENGTH,), (32,), np.float16)
        assert not np.array_equal(file.u, np.ones(LENGTH))
        assert np.array_equal(file.u, task.u)
        assert (file.metrics["validation"]["rows"], file.metrics["test"]["rows"]) == (8, 6)
        assert file.training == {"stage": "source", "rows": 24, "seed": 3, "source": "x"}
        assert file.licence == "CC0-1.0"
    assert tasks[0].labels == ("negative", "positive")
    assert tasks[0].label_texts == (("a bad one",), ("a good one", "great"))
    assert tasks[1].labels == ("nature", "sky", "state")
    assert tasks[1].label_texts == (("nature",), ("sky",), ("state",))


def test_target_stage_keeps_the_shared_prompt_and_starts_from_a_task(
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
) -> None:
    source, _, target, (task,) = stages
    kept = SharedPrompt.load(target / "prompts/shared.safetensors")
    given = SharedPrompt.load(source / "prompts/shared.safetensors")
    assert kept.fingerprint == given.fingerprint
    assert task.prompt_sha256 == given.fingerprint
    assert (task.name, task.kind, task.training["stage"]) == ("match", "pair", "target")
    assert "test" not in task.metrics


def test_start_is_taken_over(
    tiny: Backbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    source, (start, _), _, _ = stages
    shared = SharedPrompt.load(source / "prompts/shared.safetensors")
    frozen = replace(SETTINGS, epochs=1, task_rate=0.0)
    plan = Plan([data[1]["field"]], data[0], tmp_path / "a", frozen)
    (found,) = train_target(tiny, plan, shared, start, silent)
    assert np.array_equal(found.u, start.u)
    assert np.array_equal(found.v, start.v)
    (plain,) = train_target(tiny, replace(plan, output=tmp_path / "b"), shared, None, silent)
    assert np.array_equal(plain.u, np.ones(LENGTH, np.float16))


def test_golden_and_metrics_hold_in_an_exported_bundle(
    tiny: Backbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    source, first, target, second = stages
    export_bundle(ExportPlan(tiny, [source, target], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["field", "match", "mood"]
    for written in [*first, *second]:
        task = model.task(written.name)
        text = written.golden["text"]
        found = task(tuple(text) if isinstance(text, list) else text)
        assert found.label == written.golden["label"]
        assert found.score == pytest.approx(written.golden["score"], abs=1e-4)
        rows = load_task(data[1][written.name], data[0]).validation
        right = [task.labels[gold] == p.label for gold, p in zip(rows.labels, task(rows.texts), strict=True)]
        assert np.mean(right) == pytest.approx(written.metrics["validation"]["accuracy"], abs=1e-4)


def test_target_on_another_backbone(
    tiny: Backbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    other = replace(tiny, fingerprint="0" * 64, id="someone/other")
    with pytest.raises(MismatchError, match=r"'shared'.*someone/other; .*--backbone"):
        train_target(other, Plan([data[1]["match"]], data[0], tmp_path, SETTINGS), shared, None, silent)
    assert not list(tmp_path.glob("tasks/*"))


def test_start_of_another_shared_prompt(
    tiny: Backbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    start = replace(stages[1][0], prompt_sha256="0" * 64)
    with pytest.raises(MismatchError, match="'mood' scales another shared prompt"):
        train_target(tiny, Plan([data[1]["match"]], data[0], tmp_path, SETTINGS), shared, start, silent)


def test_two_recipes_of_one_name(tiny: Backbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    plan = Plan([data[1]["mood"], replace(data[1]["field"], name="mood")], data[0], tmp_path, SETTINGS)
    with pytest.raises(InputError, match="two recipes are named 'mood'"):
        train_source(tiny, plan, "shared", LENGTH, silent)


def test_prompt_without_rows(tiny: Backbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--length 1"):
        train_source(tiny, Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS), "shared", 0, silent)


def test_label_examples_are_training_texts_of_their_label(tiny: Backbone, data: tuple[Path, dict[str, Recipe]]) -> None:
    task = load_task(replace(data[1]["mood"], label_examples=2), data[0])
    texts = label_texts(tiny, task)
    assert [group[:-2] for group in texts] == [["a bad one"], ["a good one", "great"]]
    for label, group in enumerate(texts):
        own = {text for text, gold in zip(task.train.texts, task.train.labels, strict=True) if gold == label}
        assert set(group[-2:]) <= own
        assert len(set(group[-2:])) == 2


def test_replace_settings_changes_only_what_is_named(tmp_path: Path) -> None:
    plan = Plan([], tmp_path, tmp_path, SETTINGS)
    changed = replace_settings(plan, epochs=9)
    assert changed == replace(plan, settings=replace(SETTINGS, epochs=9))
    assert plan.settings.epochs == 2
