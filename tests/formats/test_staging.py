"""The folder that an export writes to: checked, staged and moved."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import LOCK
from mpt_edge.formats.locks import locked
from mpt_edge.formats.staging import check_output, replacing_folder
from tests.support.bundles import read_files


def test_existing_bundle_is_refused(folder: Path) -> None:
    before = read_files(folder)
    with pytest.raises(InputError, match="already holds a bundle; pass --force"):
        check_output(folder, force=False)
    assert read_files(folder) == before
    check_output(folder, force=True)


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "out", force=True)


def test_folder_with_foreign_files_is_refused(folder: Path) -> None:
    before = read_files(folder)
    (folder / "mine.txt").write_text("put here by hand")
    with pytest.raises(InputError, match=r"holds 'mine.txt', which is no part of a bundle"):
        check_output(folder, force=True)
    assert read_files(folder) == before | {"mine.txt": b"put here by hand"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file in it, to replace."""
    path = tmp_path / "out" / "b"
    path.mkdir(parents=True)
    (path / "bundle.json").write_text("old")
    return path


def test_folder_is_replaced(folder: Path) -> None:
    with replacing_folder(folder) as staging:
        (staging / "bundle.json").write_text("new")
        assert read_files(folder) == {"bundle.json": b"old"}
    assert read_files(folder) == {"bundle.json": b"new"}
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("at", [1, 2])
def test_crash_while_folders_are_renamed_keeps_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    rename, calls = Path.rename, []

    def crash(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder):
        pass
    assert read_files(folder) == {"bundle.json": b"old"}
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_failing_last_rename_restores_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".new-" in self.name and target == folder:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space left"), replacing_folder(folder):
        pass
    assert read_files(folder) == {"bundle.json": b"old"}
    assert [path.name for path in folder.parent.iterdir()] == ["b"]


def test_leftovers_of_killed_exports_are_removed_a_day_later(tmp_path: Path) -> None:
    old, new = ".b.new-a1b2c3d4", ".b.new-e5f6g7h_"
    kept = [new, ".b.old-a1b2c3d4", ".b.new-mine", ".c.new-a1b2c3d4", ".b.new-q1b2c3d4"]
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    for name in (old, *kept):
        (tmp_path / name / "onnx").mkdir(parents=True)
        (tmp_path / name / "onnx" / "model.onnx_data").write_text("large")
        for path in (*(tmp_path / name).rglob("*"), tmp_path / name):
            os.utime(path, (two_days_ago, two_days_ago))
    (tmp_path / new / "onnx" / "more").touch()
    os.utime(tmp_path / ".b.new-q1b2c3d4" / "onnx" / "model.onnx_data")  # still being written, deep inside
    with replacing_folder(tmp_path / "b"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b", *kept])


def test_folder_is_not_replaced_during_a_change(folder: Path) -> None:
    done = threading.Event()

    def replace() -> None:
        with replacing_folder(folder) as staging:
            (staging / "bundle.json").write_text("new")
        done.set()

    with locked(folder / LOCK):
        thread = threading.Thread(target=replace)
        thread.start()
        assert not done.wait(0.1)
        assert (folder / "bundle.json").read_text() == "old"
    thread.join(30)
    assert read_files(folder) == {"bundle.json": b"new"}
