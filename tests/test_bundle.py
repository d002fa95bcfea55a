"""The bundle folder: nothing damaged, foreign or unlisted is used, and changes are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.bundle import MANIFEST, MODEL, TOKENIZER, Bundle
from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.prompts import SharedPrompt
from mpt_edge.taskfile import TaskFile
from mpt_edge.training.backbones import EncoderBackbone
from tests.support.bundles import PROMPT, TASK, edit
from tests.support.encoders import make_task

LABELS = {"no": "bad", "yes": "good"}

MakeTask = Callable[..., Path]


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def task_file(tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path) -> MakeTask:
    """Write a task file outside the bundle."""

    def make(name: str = "fresh", **changes: object) -> Path:
        path = tmp_path / f"{name}.safetensors"
        replace(make_task(tiny, shared_prompt, name, LABELS), **changes).save(path)
        return path

    return make


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_reads_what_was_exported(
    tiny_bundle: Path, tiny_vectors: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt
) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert bundle.tokenizer() == tiny.tokenizer_json
    prompt = bundle.prompt("mpt")
    np.testing.assert_array_equal(prompt.values, shared_prompt.values)
    assert prompt.fingerprint == shared_prompt.fingerprint == bundle.manifest.prompts["mpt"]["fingerprint"]
    for name in bundle.task_names:
        original = TaskFile.load(tiny_vectors / "tasks" / f"{name}.safetensors")
        task = bundle.task(name)
        np.testing.assert_array_equal(task.u, original.u)
        np.testing.assert_array_equal(task.v, original.v)
        assert task.labels == original.labels


READERS: list[tuple[str, Callable[[Bundle], object]]] = [
    (TASK, lambda b: b.task("topic")),
    (PROMPT, lambda b: b.prompt("mpt")),
    (TOKENIZER, lambda b: b.tokenizer()),
    (MODEL, lambda b: b.verify(MODEL)),
]
each_file = pytest.mark.parametrize(("name", "reader"), READERS, ids=["task", "prompt", "tokenizer", "model"])


@each_file
@pytest.mark.parametrize("place", [0, 100, -1])
def test_tampered_byte(folder: Path, name: str, reader: Callable[[Bundle], object], place: int) -> None:
    reader(Bundle.open(folder))  # untouched it is read
    flip(folder / name, place)
    with pytest.raises(CorruptFileError, match=f"{name} is damaged"):
        reader(Bundle.open(folder))


@each_file
def test_missing_file(folder: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    (folder / name).unlink()
    with pytest.raises(CorruptFileError, match=f"{name} is missing"):
        reader(Bundle.open(folder))


@each_file
@pytest.mark.parametrize("more", [True, False])
def test_wrong_size(folder: Path, name: str, reader: Callable[[Bundle], object], more: bool) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data + b" " if more else data[:-1])
    with pytest.raises(CorruptFileError, match=rf"{name} has {len(data) + (1 if more else -1):,} bytes instead of"):
        reader(Bundle.open(folder))


@each_file
def test_file_that_is_not_listed(folder: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    edit(folder, lambda m: m["files"].pop(name))
    expected = UnknownTaskError if name == TASK else CorruptFileError
    with pytest.raises(expected, match="no task 'topic'" if name == TASK else f"does not list {name}"):
        reader(Bundle.open(folder))


@each_file
def test_link_that_leads_out(folder: Path, tmp_path: Path, name: str, reader: Callable[[Bundle], object]) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(CorruptFileError, match="leads out of the bundle"):
        reader(Bundle.open(folder))


def test_folder_link_that_leads_out(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "tasks", tmp_path / "tasks")
    (folder / "tasks").symlink_to(tmp_path / "tasks")
    with pytest.raises(CorruptFileError, match="leads out of the bundle"):
        Bundle.open(folder).task("topic")


def test_links_inside_and_to_the_bundle_are_fine(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / TASK, folder / "kept")
    (folder / TASK).symlink_to(folder / "kept")
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link").task("topic").name == "topic"


def test_prompt_name_that_climbs_out(folder: Path) -> None:
    with pytest.raises(CorruptFileError, match="does not list"):
        Bundle.open(folder).prompt("../prompts/mpt")


def test_tampered_model_is_not_loaded(folder: Path) -> None:
    flip(folder / MODEL)
    with pytest.raises(CorruptFileError, match=r"model\.onnx is damaged"):
        mpt_edge.load(folder)


def test_model_that_is_no_graph(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"no graph")
    edit(folder, lambda m: m["files"][MODEL].update(size=8))
    with pytest.raises(CorruptFileError, match="ONNX Runtime cannot load"):
        mpt_edge.load(folder, verify=False)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="build it with `mpt-edge export"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleNotFoundError, match=r"pass the folder that holds bundle\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        mpt_edge.load(tmp_path / "none")


@pytest.mark.parametrize(("asked", "near"), [("sentimen", "sentiment"), ("Topic", "topic"), ("topics", "topic")])
def test_unknown_task_names_the_nearest(tiny_bundle: Path, asked: str, near: str) -> None:
    with pytest.raises(UnknownTaskError, match=f"no task '{asked}' in .*did you mean '{near}'") as caught:
        Bundle.open(tiny_bundle).task(asked)
    assert caught.value.name == asked
    assert isinstance(caught.value, LookupError)


def test_unknown_task_lists_all_where_none_is_near(tiny_bundle: Path) -> None:
    for name in ("zzzz", "../../etc/passwd", ""):
        with pytest.raises(UnknownTaskError, match=r"it has same, sentiment, topic\."):
            Bundle.open(tiny_bundle).task(name)


def test_unknown_task_of_an_empty_bundle(folder: Path) -> None:
    bundle = Bundle.open(folder)
    for name in bundle.task_names:
        bundle.remove(name)
    with pytest.raises(UnknownTaskError, match="it has no tasks; add one with `mpt-edge tasks install FILE`"):
        bundle.task("topic")


FOREIGN: list[tuple[dict[str, object], str]] = [
    ({"backbone": "0" * 64}, "backbone than tiny-bert"),
    ({"tokenizer": "0" * 64}, "tokenizer"),
    ({"prompt_sha256": "0" * 64}, "shared prompt than this bundle's mpt"),
    ({"prompt": "other"}, "shared prompt than this bundle's mpt"),
    ({"v": np.ones(33, np.float16)}, "width than 32"),
]
foreign = pytest.mark.parametrize(
    ("changes", "says"), FOREIGN, ids=["backbone", "tokenizer", "prompt", "prompt name", "width"]
)


@foreign
def test_task_of_another_bundle_is_not_installed(
    folder: Path, task_file: MakeTask, changes: dict[str, object], says: str
) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(MismatchError, match=f"'fresh' was made for another {says}"):
        Bundle.open(folder).install(task_file(**changes))
    assert (folder / MANIFEST).read_bytes() == before
    assert not (folder / "tasks" / "fresh.safetensors").exists()
    Bundle.open(folder).install(task_file())  # without the change it is


@foreign
def test_task_of_another_bundle_that_lies_in_this_one(
    folder: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt, changes: dict[str, object], says: str
) -> None:
    path = folder / "tasks" / "fresh.safetensors"
    replace(make_task(tiny, shared_prompt, "fresh", LABELS), **changes).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"sha256": digest, "size": path.stat().st_size}
    edit(folder, lambda m: m["files"].update({"tasks/fresh.safetensors": entry}))
    with pytest.raises(MismatchError, match=f"made for another {says}"):
        Bundle.open(folder).task("fresh")


def test_own_prompt_needs_no_shared_one(folder: Path, task_file: MakeTask, shared_prompt: SharedPrompt) -> None:
    own = shared_prompt.values[::-1].copy()
    Bundle.open(folder).install(
        task_file(own_prompt=own, layout="prefix", entry="first_layer", prompt="", prompt_sha256="")
    )
    task = Bundle.open(folder).task("fresh")
    assert not task.two_vectors
    np.testing.assert_array_equal(task.own_prompt, own)


def test_install_and_remove(folder: Path, task_file: MakeTask) -> None:
    source = task_file()
    bundle = Bundle.open(folder)
    assert bundle.install(source).name == "fresh"
    assert bundle.task_names == Bundle.open(folder).task_names == ["fresh", "same", "sentiment", "topic"]
    assert (folder / "tasks" / "fresh.safetensors").read_bytes() == source.read_bytes()
    assert Bundle.open(folder).task("fresh").labels == ("no", "yes")
    bundle.remove("fresh")
    assert bundle.task_names == Bundle.open(folder).task_names == ["same", "sentiment", "topic"]
    assert not (folder / "tasks" / "fresh.safetensors").exists()
    leftovers = [p.name for p in folder.rglob(".*")]
    assert leftovers == []


def test_remove_leaves_no_empty_folder_of_replaced_files(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    for name in ("fresh", "other"):
        bundle.install(task_file(name))
        bundle.install(task_file(name, version=2))
    bundle.remove("fresh")
    assert [path.name for path in (folder / "previous").iterdir()] == ["other.safetensors"]
    bundle.remove("other")
    assert not (folder / "previous").exists()


def test_remove_of_an_unknown_task(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        Bundle.open(folder).remove("topics")
    assert (folder / MANIFEST).read_bytes() == before
    assert not (folder / ".lock").exists()


def test_versions(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    bundle.install(task_file(version=2))
    with pytest.raises(MismatchError, match="'fresh' is installed in a newer version than 1"):
        bundle.install(task_file(version=1))
    assert Bundle.open(folder).task("fresh").version == 2
    assert not (folder / ".lock").exists()
    bundle.install(task_file(version=2, scale=3.0))
    assert Bundle.open(folder).task("fresh").scale == 3.0
    bundle.install(task_file(version=5))
    assert Bundle.open(folder).task("fresh").version == 5
    bundle.remove("fresh")
    bundle.install(task_file(version=1))
    assert Bundle.open(folder).task("fresh").version == 1


def test_install_repairs_a_damaged_task(folder: Path, tiny_vectors: Path) -> None:
    flip(folder / TASK)
    Bundle.open(folder).install(tiny_vectors / TASK)
    assert Bundle.open(folder).task("topic").name == "topic"


@pytest.mark.parametrize("content", [b"", b"no task", b"\x08\0\0\0\0\0\0\0{}      "])
def test_install_of_a_file_that_is_no_task(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(CorruptFileError):
        Bundle.open(folder).install(tmp_path / "x")
    with pytest.raises(CorruptFileError, match="cannot read"):
        Bundle.open(folder).install(tmp_path / "none")
    assert (folder / MANIFEST).read_bytes() == before


def test_lock(folder: Path, task_file: MakeTask) -> None:
    lock = folder / ".lock"
    lock.touch()
    before = (folder / MANIFEST).read_bytes()
    bundle = Bundle.open(folder)
    for change in (lambda: bundle.install(task_file()), lambda: bundle.remove("topic")):
        with pytest.raises(InputError, match=r"another process is changing .*\.lock"):
            change()
    assert lock.exists()  # another's lock stays
    assert (folder / MANIFEST).read_bytes() == before
    assert bundle.task("topic").name == "topic"  # reading needs no lock
    lock.unlink()
    bundle.remove("topic")
    assert not lock.exists()


def test_two_writers_do_not_lose_each_others_change(folder: Path, task_file: MakeTask) -> None:
    one, other = Bundle.open(folder), Bundle.open(folder)
    one.install(task_file("first"))
    other.install(task_file("second"))
    one.remove("same")
    assert Bundle.open(folder).task_names == ["first", "second", "sentiment", "topic"]


def test_failed_write_leaves_the_old_manifest(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = task_file()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bundle = Bundle.open(folder)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        bundle.install(source)
    monkeypatch.undo()
    assert list(folder.rglob(".*")) == []
    assert Bundle.open(folder).task_names == ["same", "sentiment", "topic"]
    Bundle.open(folder).install(source)


def test_running_model_sees_an_install_and_a_removal(folder: Path, task_file: MakeTask) -> None:
    model = mpt_edge.load(folder, threads=1)
    with pytest.raises(UnknownTaskError):
        model.task("fresh")
    Bundle.open(folder).install(task_file())
    answer = model.task("fresh")("good film")
    assert answer == mpt_edge.load(folder, threads=1).task("fresh")("good film")
    Bundle.open(folder).remove("topic")
    with pytest.raises(UnknownTaskError):
        mpt_edge.load(folder, threads=1).task("topic")


def test_running_model_selects_the_version_installed_since(folder: Path, task_file: MakeTask) -> None:
    Bundle.open(folder).install(task_file(version=1))
    model = mpt_edge.load(folder, threads=1)
    Bundle.open(folder).install(task_file(version=2, scale=3.25))
    assert model.task("fresh").file.version == 2


def test_running_model_does_not_know_a_task_removed_since(folder: Path) -> None:
    model = mpt_edge.load(folder, threads=1)
    Bundle.open(folder).remove("topic")
    with pytest.raises(UnknownTaskError):
        model.task("topic")
