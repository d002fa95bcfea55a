"""Label vectors from small files to answers: their width, their basis, and what a bundle does with them."""

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
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.label_vectors import leading_directions, possible_widths
from mpt_edge.training.plan import NewPrompt, Origin, Plan
from mpt_edge.training.settings import TeacherPlan, Trained
from mpt_edge.training.source_stage import train_source
from mpt_edge.training.target_stage import train_target
from mpt_edge.training.trainer import Progress
from mpt_edge_export import ExportPlan, export_bundle
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


def test_a_source_run_leaves_vectors_and_a_basis(source: Path) -> None:
    mood, field = load(source, "mood"), load(source, "field")
    shared = SharedPrompt.load(source / "prompts" / "shared.safetensors")
    assert mood.label_vectors is not None
    assert (mood.label_texts, len(mood.label_vectors)) == ((), 2)
    assert shared.basis is not None
    assert (shared.basis.shape, shared.basis.dtype) == ((32, 32), np.float16)
    assert field.label_vectors is None
    assert field.label_texts
    # The mean of all labels says nothing, and takes no digits.
    assert np.abs(mood.label_vectors.dequantize().mean(0)).max() <= mood.label_vectors.scales.max() / 127


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
    own = replace(origin, trained=Trained.PROMPT)
    train_target(tiny, Plan([replace(targets[1], name="own")], data[0], tmp_path / "own", SETTINGS), own, silent)
    vectors = [source, tmp_path / "target", tmp_path / "own"]
    export_bundle(ExportPlan(tiny, vectors, tmp_path / "bundle"))
    model = mpt_edge.load(tmp_path / "bundle", threads=1)
    assert model.tasks == ["field", "match", "mood", "own", "sphere"]
    for name in model.tasks:
        folder = next(each for each in vectors if (each / "tasks" / f"{name}.safetensors").exists())
        assert answers_as_trained(model, load(folder, name))


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
    np.testing.assert_array_equal(killed.label_vectors.values, whole.label_vectors.values)


def test_teachers_answer_by_texts(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    teachers = TeacherPlan(folder=tmp_path / "teachers", epochs=1)
    tasks = train_source(tiny, Plan([recipes["mood"]], data[0], tmp_path / "run", SETTINGS), SHARED, silent, teachers)
    assert tasks[0].label_vectors is not None


@pytest.mark.parametrize(
    ("count", "basis", "expected"),
    [
        (2, 128, [16, 32, 48, 64, 96, 128, 384]),
        (2, 0, [384]),
        (10, 128, [16, 32, 48, 64, 96, 128]),
        (77, 128, [16, 32, 48, 64]),
        (151, 64, [16, 32, 48, 64]),
        (151, 0, []),
    ],
)
def test_widths_that_a_file_has_room_for(count: int, basis: int, expected: list[int]) -> None:
    labels = [f"label {i:03}" for i in range(count)]
    assert possible_widths(labels, 384, basis) == expected
    room = 4096 + 100 * max(0, count - 10)
    assert all(count * (width + 2) + len(json.dumps(labels)) < room for width in expected)


def test_labels_without_room(
    tiny: EncoderBackbone, data: tuple[Path, dict[str, Recipe]], recipes: dict[str, Recipe], source: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mpt_edge.training.label_vectors._MAX_BYTES", 2000)
    origin = Origin(folder=source, shared=SharedPrompt.load(source / "prompts" / "shared.safetensors"))
    with pytest.raises(InputError, match="'mood' has 2 labels, whose vectors its file has no room for; train it"):
        train_target(tiny, Plan([recipes["mood"]], data[0], tmp_path, SETTINGS), origin, silent)


def test_leading_directions_are_those_of_all_tasks_alike() -> None:
    rng = np.random.default_rng(0)
    tasks = [rng.standard_normal((rows, 6)).astype(np.float32) for rows in (50, 7)]
    directions = leading_directions([torch.from_numpy(task) for task in tasks]).numpy()
    weighted = np.concatenate([task / np.sqrt(len(task)) for task in tasks])
    expected = np.linalg.svd(weighted)[2]
    np.testing.assert_allclose(np.abs(directions @ expected.T), np.eye(6), atol=1e-3)
