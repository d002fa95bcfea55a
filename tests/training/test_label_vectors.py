"""Label vectors from small files to answers: their levels, their start, and what a bundle does with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.numerics import unit
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.label_vectors import _best_start, _right, _Start, choose_levels
from mpt_edge.training.plan import NewPrompt, Origin, Plan
from mpt_edge.training.quantized_labels import QuantizedLabels
from mpt_edge.training.settings import TeacherPlan, Trained
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
from tests.support import commands
from tests.support.outcomes import done
from tests.support.stages import LENGTH, SETTINGS, answers_as_trained, silent

SHARED = NewPrompt(name="shared", length=LENGTH, position=PromptPosition.ALL_LAYERS)


@pytest.fixture(scope="module")
def recipes(data: tuple[Path, dict[str, Recipe]]) -> dict[str, Recipe]:
    return {name: replace(recipe, head_type="label_vectors") for name, recipe in data[1].items()}


@pytest.fixture(scope="module")
def source(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], recipes: dict[str, Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Return a run of a task with label vectors and one with label texts."""
    folder = tmp_path_factory.mktemp("labels") / "source"
    train_source(tiny, Plan([recipes["mood"], data[1]["field"]], data[0], folder, SETTINGS, test=True), SHARED, silent)
    return folder


def load(folder: Path, name: str) -> TaskFile:
    return TaskFile.load(folder / "tasks" / f"{name}.safetensors")


def test_a_source_run_leaves_vectors(source: Path) -> None:
    mood, field = load(source, "mood"), load(source, "field")
    assert mood.label_vectors is not None
    assert (mood.label_texts, len(mood.label_vectors), mood.label_vectors.levels) == ((), 2, 256)
    assert field.label_vectors is None
    assert field.label_texts
    # The mean of all labels says nothing, and takes no levels.
    vectors = mood.label_vectors.dequantize(32)
    assert np.abs(vectors.mean(0)).max() < 0.02 * np.abs(vectors).max()


def test_a_bundle_answers_as_trained(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    recipes: dict[str, Recipe],
    source: Path,
    tmp_path: Path,
) -> None:
    origin = Origin(folder=source, shared=SharedPrompt.load(source / "prompts" / "shared.safetensors"))
    targets = [recipes["match"], replace(recipes["field"], name="sphere")]
    train_target(tiny, Plan(targets, data[0], tmp_path / "target", SETTINGS), origin, silent)
    own = replace(origin, trained=Trained.PROMPT, init="nearest")
    train_target(tiny, Plan([replace(targets[1], name="own")], data[0], tmp_path / "own", SETTINGS), own, silent)
    vectors = [source, tmp_path / "target", tmp_path / "own"]
    export_bundle(ExportPlan(tiny, vectors, tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["field", "match", "mood", "own", "sphere"]
    for name in model.tasks:
        folder = next(each for each in vectors if (each / "tasks" / f"{name}.safetensors").exists())
        assert answers_as_trained(model, load(folder, name))
    facts = json.loads(done(commands.run_here("tasks", "show", "mood", "--bundle", tmp_path / "bundle")))
    assert facts["label_vectors"] == {"labels": 2, "levels": 256}
    assert facts["contents"] == "u, v and vectors of 2 labels"


def test_a_killed_run_continues(
    tiny: EncoderBackbone,
    data: tuple[Path, dict[str, Recipe]],
    recipes: dict[str, Recipe],
    source: Path,
    tmp_path: Path,
) -> None:
    plan = Plan([recipes["mood"], data[1]["field"]], data[0], tmp_path / "killed", SETTINGS, test=True)

    def observe(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_source(tiny, plan, SHARED, observe)
    train_source(tiny, plan, SHARED, silent)
    killed, whole = load(tmp_path / "killed", "mood"), load(source, "mood")
    assert killed.label_vectors is not None
    assert whole.label_vectors is not None
    np.testing.assert_array_equal(killed.label_vectors.codes, whole.label_vectors.codes)
    np.testing.assert_array_equal(killed.label_vectors.biases, whole.label_vectors.biases)


def test_teachers_answer_by_texts(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=1)
    tasks = train_source(tiny, Plan([recipes["mood"]], data[0], tmp_path / "run", SETTINGS), SHARED, silent, teachers)
    assert tasks[0].label_vectors is not None


@pytest.mark.parametrize(
    ("count", "levels"), [(2, 256), (3, 256), (4, 16), (7, 16), (14, 4), (28, 4), (77, 3), (151, 3), (600, 3)]
)
def test_levels_that_a_file_has_room_for(count: int, levels: int) -> None:
    labels = [f"label {i:03}" for i in range(count)]
    assert choose_levels("t", labels, 384) == levels
    room = 4096 + 100 * max(0, count - 10) - 2560 - len(json.dumps(labels))
    packed = {2: 48, 3: 77, 4: 96, 6: 128, 16: 192, 256: 384}
    assert count * (packed[levels] + 4) < room
    assert all(count * (size + 4) > room for each, size in packed.items() if each > levels)


@pytest.mark.parametrize("noise", [0.1, 3.0], ids=["enough examples", "too few for so much noise"])
def test_the_better_start_on_validation_is_taken(noise: float) -> None:
    rng = np.random.default_rng(0)
    centers = np.eye(6, 24)[[0, 1]] + 3 * np.eye(6, 24)[[2, 2]]  # the labels share most of their direction

    def draw(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        target = rng.integers(0, 2, rows)
        values = centers[target] + noise * rng.standard_normal((rows, 24))
        return torch.from_numpy(unit(values.astype(np.float32))), torch.from_numpy(target)

    (train, target), (validation, right) = draw(40), draw(300)
    means = torch.stack([train[target == label].mean(0) for label in (0, 1)])
    start = _Start(train, target, validation, right, means)
    best = _best_start(start, 256)
    assert _right(best, start) >= _right(QuantizedLabels(means, 256), start)
    assert _right(best, start) > 150


def test_labels_without_room(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], recipes: dict[str, Recipe], source: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mpt_edge.training.label_vectors._MAX_BYTES", 1000)
    origin = Origin(folder=source, shared=SharedPrompt.load(source / "prompts" / "shared.safetensors"))
    with pytest.raises(
        InputError, match="'mood' has 2 labels, whose vectors of 32 channels its file has no room for; leave"
    ):
        train_target(tiny, Plan([recipes["mood"]], data[0], tmp_path, SETTINGS), origin, silent)
