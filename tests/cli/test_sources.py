"""`mpt-edge tasks install` of addresses: as of files, and what was fetched is not kept."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.support.bundles import read_files, task_path
from tests.support.commands import run_here
from tests.support.https import Server, file, serve, trust
from tests.support.outcomes import done, refused

MakeTask = Callable[..., Path]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    authority = trustme.CA()
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(authority) as server:
        yield server


def downloads(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "mpt-edge" / "downloads").iterdir()]


def test_address_and_file_in_one_change(folder: Path, task_file: MakeTask, server: Server, tmp_path: Path) -> None:
    data = task_file("far").read_bytes()
    address = server.offer("/tasks/far.safetensors", file(data, cut=len(data) // 2 + 1))
    printed = done(run_here("tasks", "install", address, task_file("near"), "-b", folder))
    assert [line.split()[1] for line in printed.splitlines()] == ["far", "near"]
    assert task_path(folder, "far").read_bytes() == data
    assert downloads(tmp_path) == []


def test_fetched_file_is_checked_as_any_other(folder: Path, server: Server, tmp_path: Path) -> None:
    before = read_files(folder)
    address = server.offer("/x.safetensors", file(b"no task"))
    assert "is not a readable safetensors file" in refused(run_here("tasks", "install", address, "-b", folder))
    assert "answered 404 Not Found" in refused(run_here("tasks", "install", server.address + "/y", "-b", folder))
    assert read_files(folder) == before
    assert downloads(tmp_path) == []


@pytest.mark.parametrize("is_far", [True, False])
def test_sha256(folder: Path, task_file: MakeTask, server: Server, is_far: bool) -> None:
    path = task_file()
    source = server.offer("/x", file(path.read_bytes())) if is_far else str(path)
    before = read_files(folder)
    message = refused(run_here("tasks", "install", source, "--sha256", "0" * 64, "-b", folder))
    assert message.startswith(f"mpt-edge: {source} has the SHA-256 ")
    assert read_files(folder) == before
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    done(run_here("tasks", "install", source, "--sha256", digest, "-b", folder))
    assert "--sha256 is the hash of one file" in refused(
        run_here("tasks", "install", source, source, "--sha256", digest, "-b", folder)
    )


def test_local_file_needs_no_client(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(task_file(), "https_.safetensors")
    done(run_here("tasks", "install", "https_.safetensors", "-b", folder))
    assert "pip install 'mpt-edge[hub]'" in refused(run_here("tasks", "install", "https://example.org/x", "-b", folder))
