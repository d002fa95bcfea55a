"""Paths with a home folder, and errors of writing that name the file."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from mpt_edge._files import (
    atomic_write,
    cache_folder,
    check_listable,
    create,
    open_regular,
    read_small,
    sha256,
    user_path,
)
from mpt_edge.errors import CorruptFileError, InputError
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


def make_special(kind: str, folder: Path) -> Path:
    """Return the path of a file of this kind."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    return path


@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these")
@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_only_regular_files_are_read_or_replaced(tmp_path: Path, kind: str, is_link: bool) -> None:
    path = make_special(kind, tmp_path)
    if is_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    for read in (lambda p: read_small(p, 10), sha256, open_regular):
        with pytest.raises(CorruptFileError, match=f"cannot read {path}, which is a {kind}; pass a regular file"):
            read(path)
    with pytest.raises(InputError, match=f"{path} is a {kind}; pass the path of a file"), atomic_write(path):
        pass


def test_a_pipe_that_takes_the_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the opening: it is not waited for."""
    path = tmp_path / "file"
    path.write_bytes(b"a")
    original = os.open

    def swapped(name: Path, *arguments: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return original(name, *arguments)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(CorruptFileError, match="which is a pipe"):
        read_small(path, 10)


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 30)
    assert read_small(path, 30) == b"a" * 30
    original = os.fstat

    def before(handle: int) -> os.stat_result:
        status = list(original(handle))
        status[stat.ST_SIZE] = 3
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", before)
    with pytest.raises(CorruptFileError, match="has 11 bytes, more than the 10 such a file may have"):
        read_small(path, 10)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400])
def test_a_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    with atomic_write(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_bytes(b"new")
    with atomic_write(tmp_path / "other", like=path) as temporary:
        temporary.write_bytes(b"new")
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, tmp_path / "other")} == {mode}


def test_nothing_is_created_through_a_link(tmp_path: Path) -> None:
    for target in ("there", "nowhere"):
        (tmp_path / "there").write_bytes(b"kept")
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(FileExistsError):
            create(tmp_path / "link")
        (tmp_path / "link").unlink()
    assert (tmp_path / "there").read_bytes() == b"kept"
    assert not (tmp_path / "nowhere").exists()
