"""Options of `mpt-edge import peft`, and its results in a folder and in a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge_export.peft import ImportOptions
from mpt_edge_export.peft.command import import_command, task_ids


def test_task_ids() -> None:
    assert task_ids([]) == {}
    assert task_ids(["film=0", "a=b=12"]) == {"film": 0, "a=b": 12}


@pytest.mark.parametrize("text", ["film", "film=", "film=x", "film=-1", "film=²"])
def test_task_ids_that_are_not_understood(text: str) -> None:
    with pytest.raises(InputError, match="is not understood; write --task NAME=ID"):
        task_ids([text])


def test_task_named_twice() -> None:
    with pytest.raises(InputError, match="--task film is given twice"):
        task_ids(["film=0", "film=1"])


def test_import_into_a_folder(bert: EncoderBackbone, adapter: Path, tmp_path: Path) -> None:
    options = ImportOptions(tasks={"film": 0}, name="reviews")
    imported = import_command(str(adapter), str(bert.folder), tmp_path / "vectors", options)
    vectors = VectorFolder(tmp_path / "vectors")
    assert list(vectors.prompts()) == ["reviews"]
    assert [task.prompt_sha256 for task in vectors.tasks().values()] == [vectors.find_prompt().fingerprint]
    assert [task.name for task in imported.tasks] == ["film"]
