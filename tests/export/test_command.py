"""Which vectors a bundle gets when nobody names any."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge_export.command import _vectors

SHIPPED = Path(__file__).parents[2] / "models" / "minilm-l6"


def test_the_packaged_backbone_gets_the_shipped_vectors(tmp_path: Path) -> None:
    (found,) = _vectors("minilm-l6", tmp_path / "out", [])
    names = [path.name for path in (found / "tasks").glob("*.safetensors")]
    assert sorted(names) == sorted(path.name for path in (SHIPPED / "tasks").glob("*.safetensors"))


def test_another_backbone_gets_none(tmp_path: Path, tiny_folder: Path) -> None:
    assert _vectors(str(tiny_folder), tmp_path / "out", []) == []


def test_vectors_that_lie_in_the_output_are_kept(tmp_path: Path, tiny_vectors: Path) -> None:
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
