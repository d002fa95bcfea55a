"""`mpt-edge sign`: all files or none, in place or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from mpt_edge.formats.taskfile import TaskFile
from tests.support.commands import run_here
from tests.support.outcomes import done, refused
from tests.support.signers import sign

MakeTask = Callable[..., Path]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    done(run_here("keys", "new", tmp_path / "key.pem"))
    return tmp_path / "key.pem"


def test_files_are_signed_in_place(task_file: MakeTask, key: Path) -> None:
    one, two = task_file("one"), task_file("two")
    public = done(run_here("keys", "show", key)).strip()
    printed = done(run_here("sign", one, two, "--key", key, "--expires", "2099-12-31"))
    assert printed.splitlines() == [f"signed {path} ({path.stat().st_size:,} bytes) by {public}" for path in (one, two)]
    for path in (one, two):
        signature = TaskFile.load(path).signature
        assert (signature.key, signature.expires, signature.is_genuine) == (public, date(2099, 12, 31), True)


def test_output_folder_keeps_the_files(task_file: MakeTask, key: Path, tmp_path: Path) -> None:
    path = task_file()
    before = path.read_bytes()
    done(run_here("sign", path, "--key", key, "--output", tmp_path / "signed" / "new"))
    assert path.read_bytes() == before
    assert TaskFile.load(tmp_path / "signed" / "new" / path.name).signature.is_genuine


def test_one_bad_file_and_nothing_is_signed(task_file: MakeTask, key: Path, tmp_path: Path) -> None:
    path = task_file()
    before = path.read_bytes()
    (tmp_path / "bad").write_text("bad")
    assert "bad is not a readable safetensors file" in refused(run_here("sign", path, tmp_path / "bad", "--key", key))
    assert path.read_bytes() == before


def test_day_that_is_over(task_file: MakeTask, key: Path) -> None:
    message = refused(run_here("sign", task_file(), "--key", key, "--expires", "2020-01-01"))
    assert message == ("mpt-edge: 2020-01-01 is over, and nothing could be installed; pass a later day with --expires.")


def test_two_files_of_one_name(task_file: MakeTask, key: Path, tmp_path: Path) -> None:
    path = task_file()
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / path.name
    copy.write_bytes(path.read_bytes())
    assert "would be written twice" in refused(run_here("sign", path, copy, "--key", key, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_signature_is_shown(folder: Path, task_file: MakeTask) -> None:
    done(run_here("tasks", "install", sign(task_file(), 1, date(2099, 12, 31)), "-b", folder))
    assert '"expires": "2099-12-31"' in done(run_here("tasks", "show", "fresh", "-b", folder))
    assert '"signature": null' in done(run_here("tasks", "show", "topic", "-b", folder))
