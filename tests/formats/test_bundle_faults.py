"""Changes to a bundle that fail, wait for each other or are read by others."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import LOCK, Bundle
from mpt_edge.formats.locks import locked
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.vectors import VectorFolder, task_key
from tests.support.bundles import edit, flip, read_files, task_path

MakeTask = Callable[..., Path]


def _log_calls(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """Return a list that fills with the syncs, renames and deletions in a bundle."""
    calls: list[tuple[str, str]] = []

    def name(path: object) -> str:
        text = os.path.relpath(os.fspath(path), folder)  # type: ignore[call-overload]
        return re.sub(r"\.[0-9a-f]{8}$", ".tmp", re.sub(r"\.[0-9a-f]{32}\.", ".HASH.", text))

    def log(function: str, describe: Callable[..., str]) -> None:
        real = getattr(os, function)

        def logged(*arguments: object, **options: object) -> object:
            calls.append((function, describe(*arguments)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, function, logged)

    log("fsync", lambda handle: name(Path(f"/proc/self/fd/{handle}").readlink()))
    log("replace", lambda _, target: name(target))
    log("unlink", lambda path, **_: name(path))
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_everything_is_on_disk_before_the_manifest_leads_to_it(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = task_file()
    bundle = Bundle.open(folder)
    bundle.remove("topic")
    calls = _log_calls(monkeypatch, folder)
    bundle.install_untested(source)
    monkeypatch.undo()
    assert calls == [
        ("fsync", "."),  # the last manifest
        ("unlink", "tasks/topic.safetensors"),  # which does not list it
        ("fsync", "."),  # the new folder
        ("fsync", "installed/.fresh.HASH.safetensors.tmp"),
        ("replace", "installed/fresh.HASH.safetensors"),
        ("fsync", "installed"),
        ("fsync", ".bundle.json.tmp"),
        ("replace", "bundle.json"),
        ("fsync", "."),
        ("unlink", ".lock"),
    ]


def test_waiting_for_another_change(folder: Path, task_file: MakeTask) -> None:
    source, bundle = task_file(), Bundle.open(folder)
    done = threading.Event()

    def install() -> None:
        bundle.install_untested(source)
        done.set()

    with locked(folder / LOCK):
        thread = threading.Thread(target=install)
        thread.start()
        assert not done.wait(0.1)
    thread.join(30)
    assert Bundle.open(folder).task("fresh").name == "fresh"
    assert not (folder / LOCK).exists()


def test_lock_of_a_folder_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    """An export that holds the lock moves the folder away, and a change that waits must find the new one."""
    folder, order = tmp_path / "bundle", []
    folder.mkdir()

    def change() -> None:
        with locked(folder / LOCK):
            order.append((folder / "new").exists())

    with locked(folder / LOCK):
        thread = threading.Thread(target=change)
        thread.start()
        folder.rename(tmp_path / "old")
        folder.mkdir()
        (folder / "new").touch()
    thread.join(30)
    assert order == [True]
    assert not (folder / LOCK).exists()


def test_link_as_lock_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / LOCK).symlink_to(tmp_path / "made")
    with pytest.raises(InputError, match="could not be changed and stays as it was"):
        Bundle.open(folder).remove("topic")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["installed", "tasks"])
def test_nothing_is_changed_through_a_link(folder: Path, tmp_path: Path, task_file: MakeTask, name: str) -> None:
    Bundle.open(folder).install_untested(task_file())
    outside = (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(outside)
    before = read_files(outside)
    bundle = Bundle.open(folder)
    for change in (lambda: bundle.install_untested(task_file("other")), lambda: bundle.remove("same")):
        with pytest.raises(InputError, match=f"{name} is a link, through which nothing is changed"):
            change()
    assert read_files(outside) == before


def test_reader_of_an_old_manifest(folder: Path, task_file: MakeTask) -> None:
    """Its files stay for one change; after more, it reads the new manifest."""
    Bundle.open(folder).install_untested(task_file(version=1))
    reader, early = Bundle.open(folder), Bundle.open(folder)
    for version in (2, 3):
        Bundle.open(folder).install_untested(task_file(version=version))
    assert reader.task("fresh").version == 1
    Bundle.open(folder).install_untested(task_file(version=4))
    early.verify_files()
    assert reader.task("fresh").version == 4
    Bundle.open(folder).remove("fresh")
    Bundle.open(folder).remove("topic")
    early.verify_files()
    assert "fresh" not in early.task_names


def test_damage_is_no_change_of_others(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file())
    reader = Bundle.open(folder)
    bundle.install_untested(task_file("other"))
    flip(task_path(folder, "fresh"))
    with pytest.raises(CorruptFileError, match=r"installed/fresh\.[0-9a-f]{32}\.safetensors is damaged"):
        reader.task("fresh")


def test_install_that_cannot_read_the_installed_version_is_refused(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, say; it would not be kept for a rollback."""
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file(version=2))
    path, newer, real = task_path(folder, "fresh"), task_file(version=3), os.open

    def fail(name: Path, *arguments: int) -> int:
        if name == path:
            raise OSError(24, "Too many open files")
        return real(name, *arguments)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(CorruptFileError, match=r"cannot read .* \(Too many open files\)"):
        bundle.install_untested(newer)
    monkeypatch.undo()
    assert Bundle.open(folder).task("fresh").version == 2


@pytest.mark.parametrize("path", ["../x.safetensors", "onnx/model.onnx", "tasks/../x.safetensors", "/etc/passwd", 3])
def test_paths_that_a_change_may_not_touch(folder: Path, path: object) -> None:
    before = (folder / MANIFEST).read_bytes()
    for change in (
        lambda manifest: manifest.update(retired=[path]),
        lambda manifest: manifest["files"][task_key("topic")].update(path=path),
    ):
        (folder / MANIFEST).write_bytes(before)
        edit(folder, change)
        with pytest.raises(CorruptFileError, match="which is not allowed"):
            Bundle.open(folder)


def test_files_of_others_stay(folder: Path, task_file: MakeTask) -> None:
    mine = [folder / name for name in ("tasks/mine.safetensors", "installed/notes.txt", "installed/mine.safetensors")]
    Bundle.open(folder).install_untested(task_file())
    for path in mine:
        path.write_text("mine")
    Bundle.open(folder).install_untested(task_file(version=2))
    Bundle.open(folder).remove("fresh")
    assert all(path.read_text() == "mine" for path in mine)


def test_vectors_of_a_changed_bundle(folder: Path, task_file: MakeTask) -> None:
    """Training and a new export read what is installed, and not what was removed."""
    bundle, vectors = Bundle.open(folder), VectorFolder(folder)
    bundle.install_untested(task_file("topic", version=2))
    bundle.install_untested(task_file("fresh"))
    bundle.remove("same")
    assert list(vectors.tasks()) == ["fresh", "sentiment", "topic"]
    assert (vectors.tasks()["topic"].version, vectors.task_path("topic")) == (2, task_path(folder, "topic"))
    assert list(vectors.files_by_key) == ["prompts/mpt.safetensors", *map(task_key, vectors.task_files)]
    (folder / MANIFEST).write_text("{")
    with pytest.raises(CorruptFileError, match=r"only it names the installed tasks; restore it, or delete .*installed"):
        vectors.tasks()
