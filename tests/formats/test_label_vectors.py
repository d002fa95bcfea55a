"""Label vectors of few levels: their error, their packing, and files that hold none or others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.label_vectors import STEP_SIZES, LabelVectors
from mpt_edge.formats.taskfile import TaskFile

LEVELS = list(STEP_SIZES)
VECTORS = np.random.default_rng(0).standard_normal((3, 21)).astype(np.float32) * [[1e-3], [1], [300]]
BIASES = np.array([-0.1, 0, 20], np.float32)


@pytest.fixture
def task() -> TaskFile:
    half = np.ones(21, np.float16)
    return TaskFile(
        name="mood", head_type="label_vectors", labels=("a", "b", "c"), u=half[:2], v=half, prompt="mpt",
        prompt_sha256="0" * 64, backbone="b", tokenizer="t", label_vectors=LabelVectors.quantize(VECTORS, BIASES, 3),
    )  # fmt: skip


@pytest.mark.parametrize("levels", LEVELS)
def test_the_step_has_the_least_error_of_a_normal_distribution(levels: int) -> None:
    numbers = norm.ppf((np.arange(1_000_000) + 0.5) / 1_000_000)

    def error(step: float) -> float:
        codes = np.clip(np.floor(numbers / step + levels / 2), 0, levels - 1)
        return float(np.mean((numbers - (codes + 0.5 - levels / 2) * step) ** 2))

    steps = STEP_SIZES[levels] * np.linspace(0.9, 1.1, 21)
    assert steps[np.argmin([error(step) for step in steps])] == pytest.approx(STEP_SIZES[levels], rel=0.02)


@pytest.mark.parametrize(("levels", "packed"), [(2, 3), (3, 5), (4, 6), (6, 7), (16, 11), (256, 21)])
def test_numbers_come_back_as_the_middle_of_their_interval(levels: int, packed: int) -> None:
    result = LabelVectors.quantize(VECTORS, BIASES, levels)
    steps = result.steps.astype(np.float64)[:, None]
    codes = np.clip(np.floor(VECTORS / steps + levels / 2), 0, levels - 1)
    np.testing.assert_allclose(result.dequantize(21), (codes + 0.5 - levels / 2) * steps, rtol=1e-6)
    assert result.codes.shape == (3, packed)
    np.testing.assert_allclose(result.biases, BIASES, rtol=1e-3)
    assert result.steps.dtype == result.biases.dtype == np.float16


def test_more_levels_have_less_error() -> None:
    stored = [LabelVectors.quantize(VECTORS, BIASES, each) for each in LEVELS]
    errors = [np.abs(each.dequantize(21) - VECTORS)[1].mean() for each in stored]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_zeros_and_numbers_without_room() -> None:
    zeros = np.zeros(2, np.float32)
    assert np.abs(LabelVectors.quantize(np.zeros((2, 3), np.float32), zeros, 16).dequantize(3)).max() < 1e-4
    with pytest.raises(OverflowError, match="float16 has no room"):
        LabelVectors.quantize(np.full((2, 2), 1e7, np.float32), zeros, 2)
    with pytest.raises(OverflowError, match="float16 has no room"):
        LabelVectors.quantize(np.ones((2, 2), np.float32), zeros + 1e5, 2)


def test_a_task_file_holds_them(task: TaskFile, tmp_path: Path) -> None:
    task.save(tmp_path / "t")
    read = TaskFile.load(tmp_path / "t")
    assert read.label_vectors is not None
    assert task.label_vectors is not None
    np.testing.assert_array_equal(read.label_vectors.dequantize(21), task.label_vectors.dequantize(21))
    np.testing.assert_array_equal(read.label_vectors.biases, task.label_vectors.biases)
    assert read.contents == "u, v and vectors of 3 labels"
    assert read.is_two_vectors


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label_vectors": None}, "its label vectors do not go together"),
        ({"head_type": "similarity", "label_texts": (("a",), ("b",), ("c",))}, "its label vectors do not go together"),
        ({"labels": ("a", "b")}, "its label vectors do not fit its labels"),
        ({"v": np.ones(40, np.float16)}, "its label vectors do not fit its labels"),
    ],
)
def test_files_that_contradict_themselves(
    task: TaskFile, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    replace(task, **changes).save(tmp_path / "t")  # type: ignore[arg-type]
    with pytest.raises(CorruptFileError, match=problem):
        TaskFile.load(tmp_path / "t")


CODES, ONES = np.ones((2, 3), np.uint8), np.ones(2, np.float16)


@pytest.mark.parametrize(
    ("codes", "steps", "biases", "levels"),
    [
        (CODES, None, ONES, "2"),
        (None, ONES, ONES, "2"),
        (CODES, ONES, None, "2"),
        (None, None, ONES, None),
        (None, None, None, "2"),
        (CODES, ONES, ONES, None),
        (CODES, ONES, ONES, "5"),
        (CODES, ONES, ONES, "02"),
        (CODES, np.ones(3, np.float16), ONES, "2"),
        (CODES, ONES, np.ones(3, np.float16), "2"),
        (CODES, -ONES, ONES, "2"),
        (CODES[0], ONES, ONES, "2"),
        (CODES[:, :0], ONES, ONES, "2"),
    ],
)
def test_entries_that_do_not_belong_together(
    codes: np.ndarray | None, steps: np.ndarray | None, biases: np.ndarray | None, levels: str | None
) -> None:
    given = {"labels.codes": codes, "labels.steps": steps, "labels.biases": biases}
    with pytest.raises(CorruptFileError, match="do not pair up"):
        LabelVectors.parse({name: array for name, array in given.items() if array is not None}, levels, "x")


def test_only_codes_are_integers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'u' is uint8; save it as float16 or float32"):
        tensors.write(tmp_path / "t", {"u": np.ones(2, np.uint8)}, {})
    with pytest.raises(InputError, match=r"'labels.codes' is float16; save it as uint8"):
        tensors.write(tmp_path / "t", {"labels.codes": np.ones((2, 2), np.float16)}, {})
