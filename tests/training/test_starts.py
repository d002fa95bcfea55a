"""Where a target's vectors start: averages, the nearest task, a task by name, PEFT's prompt; and what is refused."""

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
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.stages import NewPrompt, Origin, Plan, train_source, train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import export_adapter, import_adapter, read_adapter
from tests.support import adapters
from tests.support.stages import LENGTH, SETTINGS, silent


def test_starts(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    source, (mood, field), _, _ = stages
    shared = SharedPrompt.load(source / "prompts/shared.safetensors")
    frozen = replace(SETTINGS, epochs=1, task_lr=0.0)

    def start(how: str, task: str = "match") -> TaskFile:
        plan = Plan([data[1][task]], data[0], tmp_path / f"{how}-{task}", frozen)
        (found,) = train_target(tiny, plan, Origin(folder=source, shared=shared, start=how), silent)
        return found

    for name in ("mood", "field"):
        given, found = (mood if name == "mood" else field), start(name)
        assert np.allclose(found.u, given.u, atol=2e-3)
        assert np.allclose(found.v, given.v, atol=2e-3)
        assert found.training["start"] == name
    average = start("average")
    assert np.allclose(average.u, (mood.u.astype(float) + field.u) / 2, atol=5e-3)
    assert np.allclose(average.v, (mood.v.astype(float) + field.v) / 2, atol=5e-3)
    assert np.array_equal(start("ones").u, np.ones(LENGTH, np.float16))
    nearest = start("nearest")
    assert nearest.training["start"] in {"nearest: mood", "nearest: field"}
    chosen = mood if nearest.training["start"].endswith("mood") else field
    assert np.allclose(nearest.v, chosen.v, atol=2e-3)
    for name in ("mood", "field"):  # to a task of the same rows
        plan = Plan([replace(data[1][name], name="again")], data[0], tmp_path / f"again-{name}", frozen)
        (again,) = train_target(tiny, plan, Origin(folder=source, shared=shared, start="nearest"), silent)
        assert again.training["start"] == f"nearest: {name}"
    # A task is no start for itself unless it is named.
    assert start("nearest", "field").training["start"] == "nearest: mood"
    assert np.allclose(start("average", "field").u, mood.u, atol=2e-3)


def test_each_start_is_a_run_of_its_own(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    """Another prompt, or another start on it, does not take up what the first has left in the folder."""
    source = stages[0]
    shared = SharedPrompt.load(source / "prompts/shared.safetensors")
    plan = Plan([data[1]["match"]], data[0], tmp_path, SETTINGS)
    (first,) = train_target(tiny, plan, Origin(folder=source, shared=shared, start="ones"), silent)
    other = replace(shared, values=(shared.values * 2).astype(np.float16))
    for origin in (
        Origin(folder=source, shared=shared, start="average"),
        Origin(folder=source, shared=other, start="ones"),
    ):
        with pytest.raises(InputError, match="another start"):
            train_target(tiny, plan, origin, silent)
    seen: list[Progress] = []
    (again,) = train_target(tiny, plan, Origin(folder=source, shared=shared, start="ones"), seen.append)
    assert not seen
    assert np.array_equal(again.u, first.u)


def test_a_run_in_its_source_folder_resumes(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    """What the run itself has written there is no start for its other tasks."""
    plan = Plan([data[1]["mood"]], data[0], tmp_path, SETTINGS)
    train_source(tiny, plan, NewPrompt(name="shared", length=LENGTH, entry="first_layer"), silent)
    shared = SharedPrompt.load(tmp_path / "prompts/shared.safetensors")
    plan = replace(plan, recipes=[data[1]["match"], data[1]["field"]])

    def killed(progress: Progress) -> None:
        if progress.stage == "field":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_target(tiny, plan, Origin(folder=tmp_path, shared=shared), killed)
    for stages in (["field"], []):
        seen: list[Progress] = []
        train_target(tiny, plan, Origin(folder=tmp_path, shared=shared), seen.append)
        assert list(dict.fromkeys(progress.stage for progress in seen)) == stages


def test_target_on_another_backbone(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    other = replace(tiny, fingerprint="0" * 64, id="someone/other")
    with pytest.raises(MismatchError, match=r"'shared'.*someone/other; .*--backbone"):
        train_target(
            other,
            Plan([data[1]["match"]], data[0], tmp_path, SETTINGS),
            Origin(folder=stages[0], shared=shared),
            silent,
        )
    assert not list(tmp_path.glob("tasks/*"))


def test_start_of_another_shared_prompt(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    stages: tuple[Path, list[TaskFile], Path, list[TaskFile]],
    tmp_path: Path,
) -> None:
    shared = SharedPrompt.load(stages[0] / "prompts/shared.safetensors")
    replace(stages[1][0], prompt_sha256="0" * 64).save(tmp_path / "other/tasks/mood.safetensors")
    plan = Plan([data[1]["match"]], data[0], tmp_path, SETTINGS)
    with pytest.raises(MismatchError, match="'mood' scales another shared prompt"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared, start="mood"), silent)
    with pytest.raises(InputError, match="holds no task on 'shared' to start 'match' from; pass --start ones"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared), silent)
    with pytest.raises(InputError, match=r"holds no task 'moos' to start from \(it has none\)"):
        train_target(tiny, plan, Origin(folder=tmp_path / "other", shared=shared, start="moos"), silent)


def test_tasks_on_a_prompt_from_peft(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], tmp_path: Path
) -> None:
    """PEFT's prompt stays as it is to the bit, the start is the average of its tasks, and PEFT reads the result."""
    folder, recipes = data
    adapters.make_adapter(tiny.folder, "FEATURE_EXTRACTION", tmp_path / "adapter", num_virtual_tokens=LENGTH)
    read = read_adapter(str(tmp_path / "adapter"))
    import_adapter(read, tiny).save(tmp_path / "source")
    shared = SharedPrompt.load(tmp_path / "source/prompts/adapter.safetensors")
    plan = Plan([recipes["mood"]], folder, tmp_path / "target", SETTINGS)
    (task,) = train_target(tiny, plan, Origin(folder=tmp_path / "source", shared=shared), silent)
    assert task.training["start"] == "average"
    kept = SharedPrompt.load(tmp_path / "target/prompts/adapter.safetensors")
    assert (kept.fingerprint, kept.layout, kept.entry) == (shared.fingerprint, "joint", "inputs_embeds")
    assert np.array_equal(kept.values, read.shared())
    export_bundle(ExportPlan(tiny, [tmp_path / "target"], tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle")
    answer = model.task("mood")(task.reference_example["text"])
    assert answer.score == pytest.approx(task.reference_example["score"], abs=1e-4)
    export_adapter(model.bundle, ["mood"], tmp_path / "back", fold=True)
    peft = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny.folder), tmp_path / "back").eval()
    ids = torch.tensor([tiny.texts.encode(["a witty film"], 16)[0].ids])
    with torch.no_grad():
        hidden = peft(ids, torch.ones_like(ids)).last_hidden_state[0, LENGTH:].mean(0).numpy()
    (state,) = model.task("mood").states(["a witty film"])
    np.testing.assert_allclose(hidden / np.linalg.norm(hidden), state, atol=1e-4)
