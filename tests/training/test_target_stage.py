"""Target stage: initialization, own prompts and groups, few shots, PEFT's prompt, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

import mpt_edge
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.placement import PEFT_PLACEMENT
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.initialization import source_tasks
from mpt_edge.training.plan import Origin, Plan
from mpt_edge.training.settings import Trained
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import export_adapter, import_adapter, read_adapter
from tests.support import adapters
from tests.support.stages import LENGTH, SETTINGS, SHARED, Stages, answers_as_trained, silent


def test_initializations(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    mood, field = stages.source_tasks
    frozen = replace(SETTINGS, epochs=1, task_lr=0.0)

    def first(init: str, task: str = "match", recipe: Recipe | None = None) -> TaskFile:
        plan = Plan([recipe or stages.recipes[task]], stages.data, tmp_path / f"{init}-{task}", frozen)
        (file,) = train_target(tiny, plan, Origin(folder=stages.source, shared=stages.shared, init=init), silent)
        return file

    for name in ("mood", "field"):
        source, target = (mood if name == "mood" else field), first(name)
        assert np.allclose(target.u, source.u, atol=2e-3)
        assert np.allclose(target.v, source.v, atol=2e-3)
        assert target.training["init"] == name
    average = first("average")
    assert np.allclose(average.u, (mood.u.astype(float) + field.u) / 2, atol=5e-3)
    assert np.allclose(average.v, (mood.v.astype(float) + field.v) / 2, atol=5e-3)
    assert np.array_equal(first("ones").u, np.ones(LENGTH, np.float16))
    nearest = first("nearest")
    assert nearest.training["init"] in {"nearest: mood", "nearest: field"}
    chosen = mood if nearest.training["init"].endswith("mood") else field
    assert np.allclose(nearest.v, chosen.v, atol=2e-3)
    for name in ("mood", "field"):  # to a task of the same examples
        again = first("nearest", f"again-{name}", replace(stages.recipes[name], name="again"))
        assert again.training["init"] == f"nearest: {name}"
    # A task does not initialize itself unless it is named.
    assert first("nearest", "field").training["init"] == "nearest: mood"
    assert np.allclose(first("average", "field").u, mood.u, atol=2e-3)


def test_each_initialization_is_a_run_of_its_own(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    """Another prompt, or another initialization on it, does not continue the run in the folder."""
    source, shared = stages.source, stages.shared
    plan = Plan([stages.recipes["match"]], stages.data, tmp_path, SETTINGS)
    (first,) = train_target(tiny, plan, Origin(folder=source, shared=shared, init="ones"), silent)
    other = replace(shared, values=(shared.values * 2).astype(np.float16))
    for origin in (
        Origin(folder=source, shared=shared, init="average"),
        Origin(folder=source, shared=other, init="ones"),
    ):
        with pytest.raises(InputError, match="another initialization"):
            train_target(tiny, plan, origin, silent)
    seen: list[Progress] = []
    (again,) = train_target(tiny, plan, Origin(folder=source, shared=shared, init="ones"), seen.append)
    assert not seen
    assert np.array_equal(again.u, first.u)


def test_a_run_in_its_source_folder_resumes(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    """Tasks that the run itself has written there do not initialize its other tasks."""
    plan = Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS)
    train_source(tiny, plan, SHARED, silent)
    shared = SharedPrompt.load(tmp_path / "prompts/shared.safetensors")
    plan = replace(plan, recipes=[data[1]["match"], data[1]["field"]])

    def killed(progress: Progress) -> None:
        if progress.stage == "field":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_target(tiny, plan, Origin(folder=tmp_path, shared=shared), killed)
    for remaining in (["field"], []):
        seen: list[Progress] = []
        train_target(tiny, plan, Origin(folder=tmp_path, shared=shared), seen.append)
        assert list(dict.fromkeys(progress.stage for progress in seen)) == remaining


def test_the_shared_prompt_is_kept(stages: Stages) -> None:
    (task,) = stages.target_tasks
    kept = SharedPrompt.load(stages.target / "prompts/shared.safetensors")
    assert kept.fingerprint == task.prompt_sha256 == stages.shared.fingerprint
    assert (task.name, task.inputs, task.head_type) == ("match", "pair", "similarity")
    assert task.training["stage"] == "target"
    assert "test" not in task.metrics


def test_own_prompt_and_group(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    source, shared = stages.source, stages.shared
    recipes = [stages.recipes["match"], stages.recipes["field"]]
    plan = Plan(recipes, stages.data, tmp_path / "own", SETTINGS)
    own = train_target(tiny, plan, Origin(folder=source, shared=shared, trained=Trained.PROMPT), silent)
    prompts = [task.own_prompt for task in own]
    for task, prompt in zip(own, prompts, strict=True):
        assert prompt is not None
        assert not task.is_two_vectors
        assert (prompt.name, prompt.placement) == (task.name, shared.placement)
        assert not np.array_equal(prompt.values, shared.values)
    assert prompts[0] is not None
    assert prompts[1] is not None
    assert not np.array_equal(prompts[0].values, prompts[1].values)
    # Their vectors scale their own copies, so they initialize none on the shared prompt that the copies came from.
    assert source_tasks(tmp_path / "own", shared) == {}
    with pytest.raises(MismatchError, match=r"'field' carries its own prompt, .*; start from a task on 'shared'"):
        train_target(
            tiny,
            replace(plan, output=tmp_path / "on"),
            Origin(folder=tmp_path / "own", shared=shared, init="field"),
            silent,
        )
    plan = replace(plan, output=tmp_path / "group")
    group = train_target(tiny, plan, Origin(folder=source, shared=shared, trained=Trained.GROUP, name="both"), silent)
    both = SharedPrompt.load(tmp_path / "group/prompts/both.safetensors")
    assert not np.array_equal(both.values, shared.values)
    assert both.training["from"] == shared.fingerprint
    assert {task.prompt_sha256 for task in group} == {both.fingerprint}
    assert all(task.is_two_vectors for task in group)
    export_bundle(ExportPlan(tiny, [source, tmp_path / "own"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert all(answers_as_trained(model, task) for task in own)


def test_training_the_prompt_needs_a_learning_rate_for_it(
    tiny: EncoderBackbone, stages: Stages, tmp_path: Path
) -> None:
    plan = Plan([stages.recipes["match"]], stages.data, tmp_path, replace(SETTINGS, prompt_lr=0.0))
    origin = Origin(folder=stages.source, shared=stages.shared, trained=Trained.GROUP)
    with pytest.raises(InputError, match=r"--train group changes the prompt; pass a --prompt-lr above 0"):
        train_target(tiny, plan, origin, silent)


def test_few_shots_are_counted_and_recorded(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    origin = Origin(folder=stages.source, shared=stages.shared)
    plan = Plan([stages.recipes["match"]], stages.data, tmp_path, SETTINGS, test=True, shots=3, subset_seed=7)
    (task,) = train_target(tiny, plan, origin, silent)
    assert (task.training["examples"], task.training["shots"], task.training["subset_seed"]) == (6, 3, 7)
    assert (task.metrics["validation"]["examples"], task.metrics["test"]["examples"]) == (6, 6)
    with pytest.raises(InputError, match="fewer than 13; lower --shots"):
        train_target(tiny, replace(plan, shots=13), origin, silent)


def test_target_on_another_backbone(tiny: EncoderBackbone, stages: Stages, tmp_path: Path) -> None:
    other = replace(tiny, fingerprint="0" * 64, id="someone/other")
    with pytest.raises(MismatchError, match=r"'shared'.*someone/other; .*--backbone"):
        train_target(
            other,
            Plan([stages.recipes["match"]], stages.data, tmp_path, SETTINGS),
            Origin(folder=stages.source, shared=stages.shared),
            silent,
        )
    assert not list(tmp_path.glob("tasks/*"))


def test_a_task_of_another_shared_prompt_initializes_none(
    tiny: EncoderBackbone, stages: Stages, tmp_path: Path
) -> None:
    shared = stages.shared
    replace(stages.source_tasks[0], prompt_sha256="0" * 64).save(tmp_path / "other/tasks/mood.safetensors")
    plan = Plan([stages.recipes["match"]], stages.data, tmp_path, SETTINGS)
    with pytest.raises(MismatchError, match="'mood' scales another shared prompt"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared, init="mood"), silent)
    with pytest.raises(InputError, match="holds no task on 'shared' to start 'match' from; pass --init ones"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared), silent)
    with pytest.raises(InputError, match=r"holds no task 'moos' to start from \(it has none\)"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared, init="moos"), silent)


def test_tasks_on_a_prompt_from_peft(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    """PEFT's prompt stays as it is to the bit, its tasks' average initializes, and PEFT reads the result."""
    folder, recipes = data
    adapters.make_adapter(tiny.folder, "FEATURE_EXTRACTION", tmp_path / "adapter", num_virtual_tokens=LENGTH)
    read = read_adapter(str(tmp_path / "adapter"))
    import_adapter(read, tiny).save(tmp_path / "source")
    shared = SharedPrompt.load(tmp_path / "source/prompts/adapter.safetensors")
    plan = Plan([recipes["mood"]], folder, tmp_path / "target", SETTINGS)
    (task,) = train_target(tiny, plan, Origin(folder=tmp_path / "source", shared=shared), silent)
    assert task.training["init"] == "average"
    kept = SharedPrompt.load(tmp_path / "target/prompts/adapter.safetensors")
    assert (kept.fingerprint, kept.placement) == (shared.fingerprint, PEFT_PLACEMENT)
    assert np.array_equal(kept.values, read.shared())
    export_bundle(ExportPlan(tiny, [tmp_path / "target"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle")
    assert answers_as_trained(model, task)
    export_adapter(model.bundle, ["mood"], tmp_path / "back", fold=True)
    peft = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny.folder), tmp_path / "back").eval()
    ids = torch.tensor([tiny.texts.encode(["a witty film"], 16)[0].ids])
    with torch.no_grad():
        hidden = peft(ids, torch.ones_like(ids)).last_hidden_state[0, LENGTH:].mean(0).numpy()
    (embedding,) = model.task("mood").embed(["a witty film"])
    np.testing.assert_allclose(hidden / np.linalg.norm(hidden), embedding, atol=1e-4)
