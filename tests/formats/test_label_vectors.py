"""Label vectors in eight bits: their error, and files that hold none or others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.label_vectors import LabelVectors, parse_basis
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile

VECTORS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32) * [[1e-3], [1], [300]]


@pytest.fixture
def task() -> TaskFile:
    half = np.ones(8, np.float16)
    return TaskFile(
        name="mood", head_type="label_vectors", labels=("a", "b", "c"), u=half[:2], v=half, prompt="mpt",
        prompt_sha256="0" * 64, backbone="b", tokenizer="t", label_vectors=LabelVectors.quantize(VECTORS),
    )  # fmt: skip


def test_a_number_is_off_by_half_a_step_at_most() -> None:
    result = LabelVectors.quantize(VECTORS)
    steps = np.abs(VECTORS).max(1, keepdims=True) / 127
    assert (np.abs(result.dequantize() - VECTORS) / steps).max() < 0.6  # a half, and what the scale is rounded by
    assert (result.values.dtype, result.scales.dtype, result.width) == (np.int8, np.float16, 5)


def test_rounding_twice_changes_nothing() -> None:
    once = LabelVectors.quantize(VECTORS)
    twice = LabelVectors.quantize(once.dequantize())
    np.testing.assert_allclose(twice.dequantize(), once.dequantize(), rtol=2e-3)


def test_zeros_and_numbers_without_room() -> None:
    np.testing.assert_array_equal(LabelVectors.quantize(np.zeros((2, 3), np.float32)).dequantize(), 0)
    with pytest.raises(OverflowError, match="float16 has no room"):
        LabelVectors.quantize(np.full((1, 2), 1e6, np.float32))


def test_vectors_in_a_subspace() -> None:
    result, basis = LabelVectors.quantize(VECTORS), np.random.default_rng(1).standard_normal((7, 9))
    np.testing.assert_allclose(
        result.dequantize(basis.astype(np.float16)), result.dequantize() @ basis[:5], rtol=1e-2, atol=0.1
    )


def test_a_task_file_holds_them(task: TaskFile, tmp_path: Path) -> None:
    task.save(tmp_path / "t")
    read = TaskFile.load(tmp_path / "t")
    assert read.label_vectors is not None
    assert task.label_vectors is not None
    np.testing.assert_array_equal(read.label_vectors.values, task.label_vectors.values)
    np.testing.assert_array_equal(read.label_vectors.scales, task.label_vectors.scales)
    assert read.contents == "u, v and 5 numbers a label"
    assert read.is_two_vectors


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label_vectors": None}, "its label vectors do not go together"),
        ({"head_type": "similarity", "label_texts": (("a",), ("b",), ("c",))}, "its label vectors do not go together"),
        ({"labels": ("a", "b")}, "its label vectors do not fit its labels"),
        ({"v": np.ones(4, np.float16)}, "its label vectors do not fit its labels"),
    ],
)
def test_files_that_contradict_themselves(
    task: TaskFile, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    replace(task, **changes).save(tmp_path / "t")  # type: ignore[arg-type]
    with pytest.raises(CorruptFileError, match=problem):
        TaskFile.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (np.ones((2, 3), np.int8), None),
        (None, np.ones(2, np.float16)),
        (np.ones((2, 3), np.int8), np.ones(3, np.float16)),
        (np.ones(2, np.int8), np.ones(2, np.float16)),
        (np.ones((2, 0), np.int8), np.ones(2, np.float16)),
        (np.full((2, 3), -128, np.int8), np.ones(2, np.float16)),
    ],
)
def test_tensors_that_do_not_belong_together(values: np.ndarray | None, scales: np.ndarray | None) -> None:
    given = {"labels.values": values, "labels.scales": scales}
    with pytest.raises(CorruptFileError, match="do not pair up"):
        LabelVectors.parse({name: array for name, array in given.items() if array is not None}, "x")


def test_only_label_vectors_are_integers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'u' is int8; save it as float16 or float32"):
        tensors.write(tmp_path / "t", {"u": np.ones(2, np.int8)}, {})
    with pytest.raises(InputError, match=r"'labels.values' is float16; save it as int8"):
        tensors.write(tmp_path / "t", {"labels.values": np.ones((2, 2), np.float16)}, {})


def test_a_prompt_file_holds_the_basis(tmp_path: Path) -> None:
    values, basis = np.ones((2, 4), np.float16), np.eye(3, 4, dtype=np.float16)
    plain = SharedPrompt(name="mpt", values=values, placement=Placement(), backbone="b")
    prompt = replace(plain, basis=basis)
    prompt.save(tmp_path / "p")
    read = SharedPrompt.load(tmp_path / "p").basis
    assert read is not None
    np.testing.assert_array_equal(read, basis)
    assert prompt.fingerprint != plain.fingerprint  # or a task would take its vectors out of another space


@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (4,), (0, 4)])
def test_bases_that_fit_no_prompt_of_four_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptFileError, match="does not fit its prompt"):
        parse_basis({"basis": np.ones(shape, np.float16)}, 4, "x")
