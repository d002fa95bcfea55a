"""Reading task files before an install: once, all of them first, and no task twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.incoming import read_incoming
from tests.support.bundles import task_path

MakeTask = Callable[..., Path]


def test_the_bytes_that_were_checked_are_those_that_are_written(folder: Path, task_file: MakeTask) -> None:
    path = task_file()
    data = path.read_bytes()
    (task,) = read_incoming([path])
    path.write_bytes(b"changed after the check")
    assert (task.name, task.data, task.sha256) == ("fresh", data, hashlib.sha256(data).hexdigest())
    Bundle.open(folder).install_untested(task)
    assert task_path(folder, "fresh").read_bytes() == data


def test_files_that_are_none(task_file: MakeTask, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(CorruptFileError, match="is not a readable safetensors file"):
        read_incoming([task_file(), tmp_path / "bad"])
    with pytest.raises(CorruptFileError, match="cannot read"):
        read_incoming([tmp_path / "bad", tmp_path / "none"])
    with pytest.raises(InputError, match="two of the files hold the task 'fresh'; leave one out"):
        read_incoming([task_file(), task_file()])
    with pytest.raises(InputError, match="no task file is named; pass at least one"):
        read_incoming([])
    with pytest.raises(InputError, match="is no path"):
        read_incoming([[task_file()]])  # type: ignore[list-item]
