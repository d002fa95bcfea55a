"""Source stage from small files to vectors, and its reference examples on the device side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import NewPrompt, Origin, Plan
from mpt_edge.training.settings import TeacherPlan
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
from tests.support.stages import LENGTH, SETTINGS, SHARED, Stages, answers_as_trained, silent


def test_prompt_and_tasks_are_written(tiny: EncoderBackbone, stages: Stages) -> None:
    folder, tasks, shared = stages.source, stages.source_tasks, stages.shared
    assert (shared.name, shared.placement, shared.backbone) == ("shared", Placement(), tiny.fingerprint)
    assert (shared.values.shape, shared.values.dtype) == ((LENGTH, 32), np.float16)
    assert (shared.training["tasks"], shared.training["seed"]) == (["mood", "field"], 3)
    assert shared.license == "CC0-1.0"
    assert sorted(path.name for path in (folder / "tasks").iterdir()) == ["field.safetensors", "mood.safetensors"]
    assert [task.name for task in tasks] == ["mood", "field"]
    for task in tasks:
        file = TaskFile.load(folder / "tasks" / f"{task.name}.safetensors")
        assert (file.backbone, file.tokenizer) == (tiny.fingerprint, tiny.texts.fingerprint)
        assert (file.prompt, file.prompt_sha256) == ("shared", shared.fingerprint)
        assert (file.u.shape, file.v.shape, file.u.dtype) == ((LENGTH,), (32,), np.float16)
        assert not np.array_equal(file.u, np.ones(LENGTH))
        assert np.array_equal(file.u, task.u)
        assert (file.metrics["validation"]["examples"], file.metrics["test"]["examples"]) == (8, 6)
        assert file.training == {"stage": "source", "examples": 24, "seed": 3, "source": "x"}
        assert (file.license, file.version) == ("CC0-1.0", 3)
    assert tasks[0].labels == ("negative", "positive")
    assert tasks[0].label_texts == (("a bad one",), ("a good one", "great"))
    assert tasks[1].labels == ("nature", "sky", "state")
    assert tasks[1].label_texts == (("nature",), ("sky",), ("state",))


def test_teachers_are_trained_once_and_recorded(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    recipes = [data[1]["mood"], data[1]["field"]]
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=2, lr=0.05)
    seen: list[Progress] = []
    plan = Plan(recipes, data[0], tmp_path / "one", SETTINGS)
    train_source(tiny, plan, SHARED, seen.append, teachers)
    assert list(dict.fromkeys(p.stage for p in seen)) == ["teacher mood (1/2)", "teacher field (2/2)", "student"]
    assert all(p.loss["logits"] > 0 and p.loss["hidden"] > 0 for p in seen if p.stage == "student")
    for p in seen:
        weight = teachers.distillation.weight * (p.stage == "student")
        total = p.loss["task"] + weight * (p.loss["logits"] + p.loss["hidden"])
        assert p.loss["total"] == pytest.approx(total, rel=1e-5)
    facts = SharedPrompt.load(tmp_path / "one/prompts/shared.safetensors").training["distillation"]
    assert (facts["epochs"], facts["lr"]) == (2, 0.05)
    assert (facts["weight"], facts["temperature"], facts["hidden"]) == (0.9, 2.0, True)
    assert set(facts["teachers"]) == {"mood", "field"}
    again: list[Progress] = []
    other = replace(plan, output=tmp_path / "two", settings=replace(SETTINGS, task_lr=0.01))
    train_source(tiny, other, SHARED, again.append, teachers)
    assert {p.stage for p in again} == {"student"}


def test_reference_examples_and_metrics_hold_in_an_exported_bundle(
    tiny: EncoderBackbone, stages: Stages, tmp_path: Path
) -> None:
    export_bundle(ExportPlan(tiny, [stages.source, stages.target], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["field", "match", "mood"]
    assert model.task("match").file.template == "{text_pair} ball {text}"
    for written in [*stages.source_tasks, *stages.target_tasks]:
        assert answers_as_trained(model, written)
        task = model.task(written.name)
        examples = load_task(stages.recipes[written.name], stages.data).validation
        predicted = [answer.label for answer in task(examples.texts)]
        right = [task.labels[target] == label for target, label in zip(examples.labels, predicted, strict=True)]
        assert np.mean(right) == pytest.approx(written.metrics["validation"]["accuracy"], abs=1e-4)


@pytest.mark.parametrize("position", [PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS])
def test_joint_layout_is_trained_exported_and_run_alike(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path, position: PromptPosition
) -> None:
    """A prompt that sees the text: trained so, marked so, and answered so from the exported bundle."""
    folder, recipes = data
    plan = Plan([recipes["mood"]], folder, tmp_path / "source", SETTINGS)
    placement = Placement(Layout.JOINT, position)
    prompt = NewPrompt(name="shared", length=LENGTH, layout=Layout.JOINT, position=position, init="a witty film")
    tasks = train_source(tiny, plan, prompt, silent)
    shared = SharedPrompt.load(tmp_path / "source/prompts/shared.safetensors")
    assert (shared.placement, shared.training["init"]) == (placement, "a witty film")
    origin = Origin(folder=tmp_path / "source", shared=shared)
    tasks += train_target(tiny, replace(plan, recipes=[recipes["field"]]), origin, silent)
    export_bundle(ExportPlan(tiny, [tmp_path / "source"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle")
    assert model.tasks == ["field", "mood"]
    assert all(answers_as_trained(model, task) for task in tasks)
