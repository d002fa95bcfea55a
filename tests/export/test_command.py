"""Vectors of a bundle where the command names none, and the command's summary."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Precision
from mpt_edge_export.command import PRECISIONS, _summary, _vectors

SHIPPED = Path(__file__).parents[2] / "models" / "minilm-l6"


def test_the_packaged_backbone_gets_the_shipped_vectors(tmp_path: Path) -> None:
    (folder,) = _vectors("minilm-l6", tmp_path / "out", [])
    names = [path.name for path in (folder / "tasks").glob("*.safetensors")]
    assert sorted(names) == sorted(path.name for path in (SHIPPED / "tasks").glob("*.safetensors"))


def test_another_backbone_gets_none(tmp_path: Path, tiny_folder: Path) -> None:
    assert _vectors(str(tiny_folder), tmp_path / "out", []) == []


def test_vectors_in_the_output_are_kept(tmp_path: Path, tiny_vectors: Path) -> None:
    output = Path(shutil.copytree(tiny_vectors, tmp_path / "out"))
    assert _vectors("minilm-l6", output, []) == [output]
    assert _vectors("minilm-l6", output, [tiny_vectors]) == [output, tiny_vectors]


def test_tasks_that_carry_their_own_prompt_are_kept(tmp_path: Path, tiny_vectors: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(tiny_vectors / "tasks", output / "tasks")
    assert _vectors("minilm-l6", output, []) == [output]
    assert _vectors("minilm-l6", output, [tiny_vectors]) == [output, tiny_vectors]


def test_a_folder_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither prompts/ nor tasks/"):
        _vectors("minilm-l6", tmp_path / "out", [tmp_path])


def test_summary(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    parity = {"max_abs_difference": 1.234e-6, "cases": 47}
    summary = _summary(replace(manifest, parity=parity))
    assert summary.startswith("tiny-bert, ")
    assert summary.endswith(", 3 tasks; ONNX Runtime agrees with PyTorch to 1.2e-06 over 47 cases.")
    summary = _summary(replace(manifest, parity=parity | {"int8": {"min_cosine": 0.9876}}))
    assert summary.endswith("cases. int8 against float32: cosine 0.9876 or more on random texts.")


def test_precisions() -> None:
    alone = {precision.value: (precision,) for precision in Precision}
    assert alone | {"both": (Precision.FLOAT32, Precision.INT8), "all": tuple(Precision)} == PRECISIONS
