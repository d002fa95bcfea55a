"""Folders of vectors: paths, listings, and the prompt of a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.errors import CorruptFileError, InputError, MismatchError
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder, prompt_key, task_key, task_names

PROMPT = SharedPrompt("mpt", np.ones((3, 4), np.float16), Placement(), "b" * 64)
TASK = TaskFile(
    name="mood",
    head_type="similarity",
    labels=("bad", "good"),
    label_texts=(("bad",), ("good",)),
    u=np.ones(3, np.float16),
    v=np.ones(4, np.float16),
    prompt="mpt",
    prompt_sha256=PROMPT.fingerprint,
    backbone="b" * 64,
    tokenizer="t" * 64,
)


@pytest.fixture
def folder(tmp_path: Path) -> VectorFolder:
    """Return a folder with one prompt and three tasks."""
    vectors = VectorFolder(tmp_path / "run")
    vectors.save(PROMPT)
    for name in ("mood", "v1.5", "field"):
        vectors.save(replace(TASK, name=name))
    return vectors


def test_paths_are_those_of_a_manifest(folder: VectorFolder) -> None:
    assert (prompt_key("mpt"), task_key("v1.5")) == ("prompts/mpt.safetensors", "tasks/v1.5.safetensors")
    assert folder.prompt_path("mpt") == folder.path / "prompts" / "mpt.safetensors"
    assert folder.task_path("v1.5") == folder.path / "tasks" / "v1.5.safetensors"
    assert folder.save(TASK) == folder.task_path("mood")
    assert folder.save(PROMPT) == folder.prompt_path("mpt")
    result = sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file())
    assert result == [prompt_key("mpt"), *map(task_key, ("field", "mood", "v1.5"))]


def test_names_in_a_manifest() -> None:
    files = ["bundle.json", "onnx/model.onnx", "previous/old.safetensors", task_key("v1.5"), prompt_key("mpt")]
    files += ["tasks/README.md", "tasks/deeper/x.safetensors"]
    assert task_names([*files, task_key("mood")]) == ["mood", "v1.5"]
    assert task_names([]) == []


def test_round_trip(folder: VectorFolder) -> None:
    assert list(folder.prompts()) == ["mpt"]
    assert folder.prompts()["mpt"].fingerprint == PROMPT.fingerprint
    tasks = folder.tasks()
    assert list(tasks) == ["field", "mood", "v1.5"]
    assert [task.name for task in tasks.values()] == list(tasks)
    assert np.array_equal(tasks["mood"].u, TASK.u)


def test_other_files_are_left_alone(folder: VectorFolder) -> None:
    for name in ("tasks/mood.safetensors.bak", "tasks/notes.txt", "previous/mood.safetensors", "checkpoint.pt"):
        path = folder.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"?")
    assert list(folder.task_files) == ["field", "mood", "v1.5"]
    assert folder.files == [folder.prompt_path("mpt"), *map(folder.task_path, ("field", "mood", "v1.5"))]


def test_missing_folder(tmp_path: Path) -> None:
    vectors = VectorFolder(tmp_path / "none")
    assert (vectors.files, vectors.prompts(), vectors.tasks()) == ([], {}, {})
    assert not vectors.path.exists()


def test_a_damaged_file_is_refused(folder: VectorFolder) -> None:
    folder.task_path("mood").write_bytes(b"no tensors")
    with pytest.raises(CorruptFileError, match=r"mood\.safetensors"):
        folder.tasks()
    assert list(folder.prompts()) == ["mpt"]


def own_task(name: str, values: np.ndarray) -> TaskFile:
    return replace(TASK, name=name, own_prompt=replace(PROMPT, name=name, values=values), u=np.full(3, 2, np.float16))


def test_find_prompt(folder: VectorFolder) -> None:
    assert folder.find_prompt().fingerprint == folder.find_prompt("mpt").fingerprint == PROMPT.fingerprint
    with pytest.raises(InputError, match="holds no prompt other; pass a bundle or a source run"):
        folder.find_prompt("other")
    folder.save(replace(PROMPT, name="second", values=PROMPT.values * 2))
    assert folder.find_prompt("second").values[0, 0] == 2
    with pytest.raises(InputError, match="several prompts; name one with --prompt: mpt, second"):
        folder.find_prompt()


def test_find_the_composed_prompt_of_a_task(tmp_path: Path) -> None:
    """A task with its own prompt can be the source of others, which scale what it reads."""
    vectors = VectorFolder(tmp_path)
    with pytest.raises(InputError, match="holds no prompt; pass"):
        vectors.find_prompt()
    vectors.save(own_task("one", np.full((3, 4), 3, np.float32)))
    result = vectors.find_prompt()
    assert (result.name, result.placement, result.head) == ("one", Placement(), None)
    np.testing.assert_array_equal(result.values, np.full((3, 4), 6))
    vectors.save(own_task("two", np.full((3, 4), 5, np.float32)))
    np.testing.assert_array_equal(vectors.find_prompt("two").values, np.full((3, 4), 10))
    with pytest.raises(InputError, match="several prompts; name one with --prompt: one, two"):
        vectors.find_prompt()


def test_prompt_of(folder: VectorFolder) -> None:
    assert folder.prompt_of(TASK).fingerprint == PROMPT.fingerprint
    own = own_task("own", np.ones((3, 4), np.float32))
    assert folder.prompt_of(own) is own.own_prompt
    with pytest.raises(InputError, match=r"lacks the prompt 'gone' of its task 'mood'; copy it to .*gone\.safetensors"):
        folder.prompt_of(replace(TASK, prompt="gone"))
    with pytest.raises(MismatchError, match="'mood' scales another prompt than"):
        folder.prompt_of(replace(TASK, prompt_sha256="0" * 64))
