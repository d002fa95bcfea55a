"""Paths with a home folder, and errors of writing that name the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mpt_edge._files import atomic_write, cache_folder, check_listable, user_path
from mpt_edge.errors import InputError
from mpt_edge.inference import loading


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_home_folder(home: Path) -> None:
    assert user_path("~") == user_path(Path("~")) == home
    assert user_path("~/a/b") == home / "a" / "b"


@pytest.mark.parametrize("path", ["a/~/b", "~no-such-user/a", "~$draft.csv", "a~", "."])
def test_other_tildes_stay(home: Path, path: str) -> None:
    assert user_path(path) == Path(path)


@pytest.mark.parametrize("value", ["relative", "./here"])
def test_home_that_is_no_whole_path(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOME", value)
    with pytest.raises(InputError, match="~/a starts from a home folder, and there is none; set HOME"):
        user_path("~/a")


@pytest.mark.parametrize("failure", [RuntimeError("no home"), OSError("no home"), KeyError(1), "~/.cache/mpt-edge"])
def test_cache_folder_of_any_platformdirs(monkeypatch: pytest.MonkeyPatch, failure: Exception | str) -> None:
    def user_cache_path(name: str) -> Path:
        if isinstance(failure, Exception):
            raise failure
        return Path(failure)

    monkeypatch.setattr("platformdirs.user_cache_path", user_cache_path)
    with pytest.raises(FileNotFoundError, match=r"there is no home folder .* --bundle .* --output"):
        loading.cache_bundle()


def test_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(OSError, match="No space") as raised, atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_error_of_a_temporary_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(FileNotFoundError) as raised, atomic_write(path) as temporary:
        temporary.unlink()
    assert raised.value.filename == str(path)
    assert raised.value.filename2 is None


def test_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, atomic_write(tmp_path / "a.bin"):
        os.stat(tmp_path / "other")  # noqa: PTH116 - any call
    assert str(raised.value.filename) == str(tmp_path / "other")


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; pass the path of a file"), atomic_write(tmp_path):
        pass


def test_listing_what_is_not_there(tmp_path: Path) -> None:
    check_listable(tmp_path / "none")
    (tmp_path / "file").touch()
    check_listable(tmp_path / "file")


def test_cache_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert cache_folder() in (home / "cache" / "mpt-edge", home / "Library" / "Caches" / "mpt-edge")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: Path("~/.cache/mpt-edge"))
    assert cache_folder() is None
