"""Changes of a bundle: complete or absent, seen by running models, and undone by a rollback."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import LOCK, Bundle, previous_key
from mpt_edge.formats.history import MAX_RECORDS
from mpt_edge.formats.locks import locked
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.bundles import PROMPT, TASK, edit, flip, task_path
from tests.support.encoders import make_task

LABELS = {"no": "bad", "yes": "good"}
MakeTask = Callable[..., Path]


def test_install_and_remove(folder: Path, task_file: MakeTask) -> None:
    source = task_file()
    bundle = Bundle.open(folder)
    assert bundle.install_untested(source)[0].name == "fresh"
    assert bundle.task_names == Bundle.open(folder).task_names == ["fresh", "same", "sentiment", "topic"]
    path = task_path(folder, "fresh")
    assert path.parent == folder / "installed"
    assert path.read_bytes() == source.read_bytes()
    assert Bundle.open(folder).task("fresh").labels == ("no", "yes")
    bundle.remove("fresh")
    assert bundle.task_names == Bundle.open(folder).task_names == ["same", "sentiment", "topic"]
    leftovers = [p.name for p in folder.rglob(".*")]
    assert leftovers == []
    assert path.exists()  # a reader may have read the old manifest
    bundle.remove("topic")
    assert not (folder / "installed").exists()
    assert (folder / TASK).exists()
    bundle.install_untested(source)
    assert not (folder / TASK).exists()


def test_files_of_a_change_stay_for_one_more(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    seen = []
    for version in range(1, 6):
        bundle.install_untested(task_file(version=version))
        seen.append(task_path(folder, "fresh").name)
    present = {path.name for path in (folder / "installed").iterdir()}
    assert present == {*seen[-3:]}  # in use, kept for a rollback, and retired by the last change
    assert bundle.manifest.retired == (f"installed/{seen[-3]}",)


def test_remove_of_an_unknown_task(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        Bundle.open(folder).remove("topics")
    assert (folder / MANIFEST).read_bytes() == before
    assert not (folder / ".lock").exists()


def test_versions(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file(version=2))
    before = (folder / MANIFEST).read_bytes()
    for changes, says in (
        (
            {"version": 1},
            "'fresh' was installed in version 2, and this is version 1; train or import it with --task-version 3",
        ),
        (
            {"version": 2, "scale": 3.0},
            "'fresh' was installed in version 2, with other content; train or import it with",
        ),
    ):
        with pytest.raises(MismatchError, match=says):
            bundle.install_untested(task_file(**changes))
        assert (folder / MANIFEST).read_bytes() == before
    assert not (folder / ".lock").exists()
    bundle.install_untested(task_file(version=5))
    bundle.install_untested(task_file(version=5))  # the same file repairs
    assert Bundle.open(folder).task("fresh").version == 5


@pytest.mark.parametrize("lose", ["remove", "flip", "unlink", "rollback"])
def test_highest_version_is_remembered(folder: Path, task_file: MakeTask, lose: str) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file(version=1))
    bundle.install_untested(task_file(version=3))
    if lose in {"remove", "rollback"}:
        getattr(bundle, lose)("fresh")
    else:
        {"flip": flip, "unlink": Path.unlink}[lose](task_path(folder, "fresh"))
    for changes in ({"version": 2}, {"version": 3, "scale": 3.0}):
        with pytest.raises(MismatchError, match="'fresh' was installed in version 3"):
            Bundle.open(folder).install_untested(task_file(**changes))
    bundle.install_untested(task_file(version=3))
    assert Bundle.open(folder).task("fresh").version == 3


def test_exported_version_is_remembered(folder: Path, task_file: MakeTask) -> None:
    """The damaged file does not say its version, and the manifest does."""
    flip(folder / TASK)
    with pytest.raises(MismatchError, match="'topic' was installed in version 1, with other content"):
        Bundle.open(folder).install_untested(task_file("topic"))


def test_allowed_downgrade(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file(version=3))
    bundle.install_untested(task_file(version=1), allow_downgrade=True)
    assert Bundle.open(folder).task("fresh").version == 1
    flip(task_path(folder, "fresh"))
    bundle.install_untested(task_file(version=1))  # repairs what is listed
    with pytest.raises(MismatchError, match="was installed in version 3, and this is version 2"):
        bundle.install_untested(task_file(version=2))
    bundle.install_untested(task_file(version=3, scale=2.0), allow_downgrade=True)
    with pytest.raises(MismatchError, match="was installed in version 3, with other content"):
        bundle.install_untested(task_file(version=3))
    actions = [record.action for record in Bundle.open(folder).manifest.changes]
    assert actions == ["install", "downgrade", "install", "downgrade"]


def test_install_repairs_a_damaged_task(folder: Path, tiny_vectors: Path) -> None:
    flip(folder / TASK)
    Bundle.open(folder).install_untested(tiny_vectors / TASK)
    assert Bundle.open(folder).task("topic").name == "topic"


@pytest.mark.parametrize("content", [b"", b"no task", b"\x08\0\0\0\0\0\0\0{}      "])
def test_install_of_a_file_that_is_no_task(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(CorruptFileError):
        Bundle.open(folder).install_untested(tmp_path / "x")
    with pytest.raises(CorruptFileError, match="cannot read"):
        Bundle.open(folder).install_untested(tmp_path / "none")
    assert (folder / MANIFEST).read_bytes() == before


def test_lock(folder: Path, task_file: MakeTask) -> None:
    lock = folder / LOCK
    before = (folder / MANIFEST).read_bytes()
    bundle = Bundle.open(folder)
    with locked(lock):
        for change in (
            lambda: bundle.install_untested(task_file(), wait=0.02),
            lambda: bundle.remove("topic", wait=0.02),
            lambda: bundle.rollback("topic", wait=0.02),
        ):
            with pytest.raises(InputError, match=r"another process has been changing .*/bundle for 0\.02 s; try again"):
                change()
        assert lock.exists()  # another's lock stays
        assert (folder / MANIFEST).read_bytes() == before
        assert bundle.task("topic").name == "topic"  # reading needs no lock
    bundle.remove("topic")
    assert not lock.exists()


def test_lock_file_of_a_killed_process_locks_nothing(folder: Path) -> None:
    (folder / LOCK).write_text("left over")
    Bundle.open(folder).remove("topic", wait=0)
    assert not (folder / LOCK).exists()


def test_two_writers_do_not_lose_each_others_change(folder: Path, task_file: MakeTask) -> None:
    one, other = Bundle.open(folder), Bundle.open(folder)
    one.install_untested(task_file("first"))
    other.install_untested(task_file("second"))
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
    with pytest.raises(
        InputError, match=r"stays as it was \(No space left on device\); free some space, and try again"
    ):
        bundle.install_untested(source)
    monkeypatch.undo()
    assert list(folder.rglob(".*")) == []
    assert Bundle.open(folder).task_names == ["same", "sentiment", "topic"]
    Bundle.open(folder).install_untested(source)


def test_running_model_sees_an_install_and_a_removal(folder: Path, task_file: MakeTask) -> None:
    model = mpt_edge.load(folder, threads=1)
    with pytest.raises(UnknownTaskError):
        model.task("fresh")
    Bundle.open(folder).install_untested(task_file())
    answer = model.task("fresh")("good film")
    assert answer == mpt_edge.load(folder, threads=1).task("fresh")("good film")
    Bundle.open(folder).remove("topic")
    with pytest.raises(UnknownTaskError):
        mpt_edge.load(folder, threads=1).task("topic")


def test_running_model_selects_the_version_installed_since(folder: Path, task_file: MakeTask) -> None:
    Bundle.open(folder).install_untested(task_file(version=1))
    model = mpt_edge.load(folder, threads=1)
    Bundle.open(folder).install_untested(task_file(version=2, scale=3.25))
    assert model.task("fresh").file.version == 2


def test_running_model_does_not_know_a_task_removed_since(folder: Path) -> None:
    model = mpt_edge.load(folder, threads=1)
    Bundle.open(folder).remove("topic")
    with pytest.raises(UnknownTaskError):
        model.task("topic")


def test_a_bundle_exported_anew_is_not_read_with_what_was_loaded_before(
    folder: Path, task_file: MakeTask, shared_prompt: SharedPrompt, tiny: EncoderBackbone
) -> None:
    """Vectors of a new shared prompt of the same name would scale the old one."""
    model = mpt_edge.load(folder, threads=1)
    model.task("topic")
    other = replace(shared_prompt, values=shared_prompt.values[::-1].copy())
    other.save(folder / PROMPT)
    data = (folder / PROMPT).read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    def exported(manifest: dict[str, Any]) -> None:
        manifest["files"][PROMPT] = entry
        manifest["prompts"]["mpt"]["fingerprint"] = other.fingerprint

    edit(folder, exported)
    path = task_file()
    replace(make_task(tiny, other, "fresh", LABELS)).save(path)
    for change in (lambda: model.task("same"), lambda: model.bundle.install_untested(path)):
        with pytest.raises(MismatchError, match="was exported anew since it was loaded; load it again"):
            change()
    assert Bundle.open(folder).install_untested(path)[0].name == "fresh"


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_rollback_repairs_and_keeps_nothing_damaged(
    folder: Path, task_file: MakeTask, damage: Callable[[Path], object]
) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file(version=1))
    bundle.install_untested(task_file(version=2))
    damage(task_path(folder, "fresh"))
    assert bundle.rollback("fresh").version == 1
    assert Bundle.open(folder).task("fresh").version == 1
    with pytest.raises(InputError, match="has no earlier version"):
        bundle.rollback("fresh")
    assert previous_key("fresh") not in Bundle.open(folder).manifest.files


def test_install_of_several_is_one_change(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(CorruptFileError, match="cannot read"):
        bundle.install_untested(task_file("one"), folder / "none")
    with pytest.raises(InputError, match="two of the files hold the task 'one'; leave one out"):
        bundle.install_untested(task_file("one"), task_file("one"))
    bad = task_file("bad", backbone="0" * 64)
    with pytest.raises(MismatchError):
        bundle.install_untested(task_file("one"), bad)
    assert (folder / MANIFEST).read_bytes() == before
    assert [task.name for task in bundle.install_untested(task_file("one"), task_file("two"))] == ["one", "two"]
    assert Bundle.open(folder).task_names == ["one", "same", "sentiment", "topic", "two"]


def test_history(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.changes == ()
    bundle.install_untested(task_file("fresh", version=1), task_file("other", version=3))
    bundle.install_untested(task_file("fresh", version=2))
    digest = bundle.manifest.files["tasks/fresh.safetensors"]["sha256"]
    bundle.rollback("fresh")
    bundle.remove("other")
    records = Bundle.open(folder).manifest.changes
    assert [(record.action, record.task, record.version) for record in records] == [
        ("install", "fresh", 1),
        ("install", "other", 3),
        ("install", "fresh", 2),
        ("rollback", "fresh", 1),
        ("remove", "other", 3),
    ]
    assert records[2].sha256 == digest
    assert records[3].sha256 == bundle.manifest.files["tasks/fresh.safetensors"]["sha256"]
    assert all(datetime.fromisoformat(record.when).tzinfo == UTC for record in records)


def test_history_is_bounded(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    source = task_file()
    for _ in range(MAX_RECORDS + 5):
        bundle.install_untested(source)
    assert len(Bundle.open(folder).manifest.changes) == MAX_RECORDS


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_changes_keep_the_permissions_of_what_they_replace(folder: Path, task_file: MakeTask) -> None:
    (folder / "bundle.json").chmod(0o600)
    task_path(folder, "topic").chmod(0o640)
    Bundle.open(folder).install_untested(task_file("topic", version=2))
    assert [path.stat().st_mode & 0o777 for path in (folder / "bundle.json", task_path(folder, "topic"))] == [
        0o600,
        0o640,
    ]


def test_install_of_what_is_installed_writes_no_task(folder: Path, tiny_vectors: Path) -> None:
    Bundle.open(folder).install_untested(tiny_vectors / TASK)
    assert task_path(folder, "topic") == folder / TASK
    assert not (folder / "installed").exists()
    assert [record.action for record in Bundle.open(folder).manifest.changes] == ["install"]
