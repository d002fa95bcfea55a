"""One change to a bundle: nothing before the commit, all of it after, and the old files for one change more."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.history import Action
from mpt_edge.formats.manifest import MANIFEST, Manifest, read_manifest
from mpt_edge.formats.transaction import Transaction, remove_leftovers, reporting_failures
from tests.support.bundles import TASK

NEW = "tasks/fresh.safetensors"


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder / MANIFEST)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(data: bytes) -> str:
    return f"installed/fresh.{hashlib.sha256(data).hexdigest()[:32]}.safetensors"


def write(folder: Path, data: bytes) -> Manifest:
    change = Transaction(folder, read_manifest(folder / MANIFEST))
    change.write(NEW, "fresh", data)
    change.release("fresh", 1, hashlib.sha256(data).hexdigest())
    return change.commit()


def test_nothing_is_written_before_the_commit(folder: Path, manifest: Manifest) -> None:
    before = contents(folder)
    change = Transaction(folder, manifest)
    change.write(NEW, "fresh", b"one")
    change.release("fresh", 1, hashlib.sha256(b"one").hexdigest())
    change.drop(TASK)
    change.record(Action.REMOVE, "topic", 1, "0" * 64)
    assert contents(folder) == before
    assert manifest.files.keys() >= {TASK}
    made = change.commit()
    assert read_manifest(folder / MANIFEST) == made
    assert (folder / stored(b"one")).read_bytes() == b"one"
    assert made.files[NEW]["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert TASK not in made.files
    assert [(record.action, record.task) for record in made.changes] == [(Action.REMOVE, "topic")]
    assert (folder / TASK).read_bytes() == before[TASK]  # for readers of the old manifest
    assert made.retired == (TASK,)


def test_a_copied_key_shares_the_file(folder: Path, manifest: Manifest) -> None:
    change = Transaction(folder, manifest)
    change.copy(NEW, TASK)
    made = change.commit()
    assert made.files[NEW] == {**manifest.files[TASK], "path": TASK}
    back = Transaction(folder, made)
    back.drop(TASK)
    back.copy(TASK, NEW)
    assert back.commit().files[TASK] == manifest.files[TASK]  # at home a file needs no path


def test_retired_files_go_at_the_next_change_and_others_stay(folder: Path) -> None:
    write(folder, b"one")
    (folder / "installed" / "notes.txt").write_text("not ours")
    (folder / stored(b"killed")).write_bytes(b"half")
    assert write(folder, b"two").retired == (stored(b"one"),)
    assert (folder / stored(b"one")).exists()
    assert not (folder / stored(b"killed")).exists()
    write(folder, b"three")
    assert {str(path.relative_to(folder)) for path in (folder / "installed").iterdir()} == {
        "installed/notes.txt",
        stored(b"two"),
        stored(b"three"),
    }


def test_leftovers_are_those_that_the_manifest_does_not_list(folder: Path) -> None:
    made = write(folder, b"one")
    before = contents(folder)
    (folder / stored(b"other")).write_bytes(b"other")
    remove_leftovers(folder, made)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["installed", "tasks"])
def test_nothing_is_written_through_a_linked_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if name == "tasks":
        (folder / name).rename(tmp_path / "elsewhere" / name)
    (folder / name).symlink_to(tmp_path / "elsewhere" / (name if name == "tasks" else ""))
    before = contents(folder)
    with pytest.raises(InputError, match=f"{name} is a link, through which nothing is changed"):
        write(folder, b"one")
    assert contents(folder) == before


def test_a_failed_commit_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is renamed last; that call fails here, after the new file is on disk."""
    before = contents(folder)

    def fail(source: object, target: object) -> None:
        if Path(str(target)).name == MANIFEST:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        rename(source, target)  # type: ignore[arg-type]

    rename = os.replace
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Read-only file system"):
        write(folder, b"one")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "raise the limit on the size of files"),
        (errno.EROFS, "let this user write there"),
        (errno.EIO, "check the disk"),
    ],
)
def test_failures_of_the_system_are_one_sentence(tmp_path: Path, number: int, fix: str) -> None:
    with pytest.raises(InputError) as caught, reporting_failures(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == (
        f"{tmp_path} could not be changed and stays as it was ({os.strerror(number)}); {fix}, and try again."
    )


def test_our_own_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="as it is"), reporting_failures(tmp_path):
        raise CorruptFileError("as it is")
