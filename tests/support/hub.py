"""A model hub on this machine: its HTTP interface over a folder, and its cache's layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path, repository: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve a folder as a repository of the hub, whose client then keeps files in ``cache``.

    Yields:
        The names of the files that were fetched.
    """
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def _answer(self, *, has_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{repository}/tree/"):
                self._send(json.dumps(_tree(folder)).encode(), has_body=has_body)
            elif path.startswith(f"/api/models/{repository}"):
                entries = [{"rfilename": entry["path"]} for entry in _tree(folder)]
                info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": entries, "tags": []}
                self._send(json.dumps(info | {"private": False, "downloads": 0}).encode(), has_body=has_body)
            elif fnmatch(path, f"/{repository}/resolve/*/*") and (folder / path.split("/", 5)[5]).is_file():
                name = path.split("/", 5)[5]
                fetched.extend([name] if has_body else [])
                self._send((folder / name).read_bytes(), has_body=has_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()

        def _send(self, data: bytes, *, has_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            self.wfile.write(data if has_body else b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def into_cache(folder: Path, repository: str, cache: Path) -> Path:
    """Copy a folder into the hub's cache, with links to blobs in place of files; return the commit's folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    commit = home / "snapshots" / COMMIT
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            link = commit / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            blob.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, blob)
            link.symlink_to(Path(*[".."] * (len(link.relative_to(home).parts) - 1)) / "blobs" / blob.name)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(COMMIT)
    return commit


def _tree(folder: Path) -> list[dict[str, object]]:
    """Return the entries of a repository's files, as the hub lists them."""
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),  # noqa: S324 - as git names files
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
