"""A model hub on this machine: its HTTP interface over a folder, and its cache's layout."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


#: Tokens that the hub knows: one that may write, and one that may not.
WRITER, READER = "hf_writer", "hf_reader"

#: Suffixes of files that the hub keeps in its store of large files.
_LARGE = (".safetensors", ".onnx", ".onnx_data", ".bin")

Files = dict[str, bytes]


@dataclass
class Stored:
    """A repository: the files of each commit, and the commits of branches and tags."""

    commits: dict[str, Files]
    refs: dict[str, str]
    private: bool = False
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.commit(revision) or ""]

    def add(self, branch: str, files: Files) -> str:
        """Make a commit on a branch; return its id."""
        listing = repr([len(self.commits), sorted((name, hash_of(data)) for name, data in files.items())])
        oid = hashlib.sha1(listing.encode()).hexdigest()  # noqa: S324 - as git does
        self.commits[oid], self.refs[branch] = files, oid
        return oid


@dataclass
class Hub:
    """A running hub.

    Attributes:
        repositories: repositories by id.
        requests: method and path of each request, without the query.
        fetched: names of files whose content was sent.
        cut: bytes after which the next content ends, once; 0 for whole contents.
        broken: statuses for the next requests of a method and a path's start.
    """

    address: str = ""
    repositories: dict[str, Stored] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    large: Files = field(default_factory=dict)
    cut: int = 0
    broken: dict[tuple[str, str], int] = field(default_factory=dict)

    def put(self, repository: str, folder: Path, *, oid: str = COMMIT, **options: bool) -> Stored:
        """Store a folder as a repository of one commit."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return self.repositories.setdefault(repository, Stored({oid: files}, {"main": oid}, **options))

    def forget(self) -> None:
        """Forget all requests."""
        for each in (self.requests, self.tokens, self.fetched):
            each.clear()


@contextmanager
def running(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub, which the client of this process then asks, keeping files in ``cache``."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, in which the hub stores chunks
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve(
    folder: Path, repository: str, cache: Path, monkeypatch: pytest.MonkeyPatch, *, tag: str = "v1"
) -> Iterator[list[str]]:
    """Serve a folder as a repository of the hub, whose client then keeps files in ``cache``.

    Yields:
        The names of the files that were fetched.
    """
    with running(cache, monkeypatch) as hub:
        hub.put(repository, folder).refs[tag] = COMMIT
        yield hub.fetched


class _RefusedError(Exception):
    """An answer without a body."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path))
        self.hub.tokens.append(self.token)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for (method, start), status in list(self.hub.broken.items()):
                if method == self.command and path.startswith(start):
                    del self.hub.broken[method, start]
                    raise _RefusedError(status)
            for pattern, methods, answer in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    answer(self, *map(unquote, match.groups()))
                    return
            raise _RefusedError(404)
        except _RefusedError as refusal:
            self.send_response(refusal.status)
            self.send_header("Content-Length", "0")
            if refusal.code:
                self.send_header("X-Error-Code", refusal.code)
            self.end_headers()

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def repository(self, name: str, *, writes: bool = False) -> Stored:
        if self.token not in {None, WRITER, READER}:
            raise _RefusedError(401)
        stored = self.hub.repositories.get(name)
        if stored is None or (stored.private and self.token is None):
            raise _RefusedError(401 if self.token is None else 404, "RepoNotFound")
        if stored.gated and self.token is None:
            raise _RefusedError(401, "GatedRepo")
        if writes:
            self.check_writer()
        return stored

    def check_writer(self) -> None:
        if self.token != WRITER:
            raise _RefusedError(401 if self.token is None else 403)

    def at(self, name: str, revision: str) -> tuple[str, Files]:
        stored = self.repository(name)
        oid = stored.commit(revision)
        if oid is None:
            raise _RefusedError(404, "RevisionNotFound")
        return oid, stored.commits[oid]

    def send_json(self, value: object) -> None:
        self.send(json.dumps(value).encode())

    def send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def info(self, name: str, revision: str = "main") -> None:
        oid, files = self.at(name, revision)
        entries = [{"rfilename": each} for each in files]
        private = self.hub.repositories[name].private
        facts = {"id": name, "modelId": name, "sha": oid, "siblings": entries, "tags": [], "downloads": 0}
        self.send_json(facts | {"private": private})

    def tree(self, name: str, revision: str) -> None:
        self.send_json(_tree(self.at(name, revision)[1]))

    def paths_info(self, name: str, revision: str) -> None:
        files = self.at(name, revision)[1]
        wanted = parse_qs(self.body.decode())["paths"]
        self.send_json(_tree({path: files[path] for path in wanted if path in files}))

    def resolve(self, name: str, revision: str, path: str) -> None:
        oid, files = self.at(name, revision)
        if path not in files:
            raise _RefusedError(404, "EntryNotFound")
        data = files[path]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{_etag(path, data)}"', "X_Repo_Commit": oid}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.hub.fetched.append(path)
            if self.hub.cut and len(data) > self.hub.cut:
                kept, self.hub.cut = self.hub.cut, 0
                headers["Content_Length"] = str(len(data) - start)
                self.send(data[start : start + kept], **headers)
                self.close_connection = True
                return
        self.send(data[start:], 206 if start else 200, **headers)

    def create(self) -> None:
        self.check_writer()
        entries = json.loads(self.body)
        name = f"{entries['organization']}/{entries['name']}"
        if name in self.hub.repositories:
            self.send(json.dumps({"url": f"{self.hub.address}/{name}"}).encode(), 409)
            return
        stored = Stored({}, {}, private=entries.get("visibility") == "private")
        stored.add("main", {".gitattributes": b"*.onnx filter=lfs"})
        self.hub.repositories[name] = stored
        self.send_json({"url": f"{self.hub.address}/{name}"})

    def validate(self) -> None:
        self.send_json({"warnings": [], "errors": []})

    def preupload(self, name: str, revision: str) -> None:
        files = self.repository(name, writes=True).files(revision)
        self.send_json({"files": [self._upload(each["path"], files) for each in json.loads(self.body)["files"]]})

    def _upload(self, path: str, files: Files) -> dict[str, object]:
        mode = "lfs" if path.endswith(_LARGE) else "regular"
        oid = _etag(path, files[path]) if path in files else None
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def batch(self, name: str) -> None:
        self.repository(name, writes=True)
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.large:
                each["actions"] = {"upload": {"href": f"{self.hub.address}/store/{each['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hash_of(self.body) != oid:
            raise _RefusedError(400)
        self.hub.large[oid] = self.body
        self.send(b"")

    def commit(self, name: str, revision: str) -> None:
        stored = self.repository(name, writes=True)
        files = dict(stored.files(revision))
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = stored.add(revision, files)
        self.send_json({"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def branch(self, name: str, branch: str) -> None:
        stored = self.repository(name, writes=True)
        if branch in stored.refs:
            raise _RefusedError(409)
        stored.refs[branch] = stored.refs["main"]
        self.send_json({})

    def tag(self, name: str, revision: str) -> None:
        stored = self.repository(name, writes=True)
        if json.loads(self.body)["tag"] in stored.refs:
            raise _RefusedError(409)
        stored.refs[json.loads(self.body)["tag"]] = stored.commit(revision) or ""
        self.send_json({})


_NAME, _PART = r"([\w.-]+/[\w.-]+?)", r"([^/]+)"

_ROUTES: list[tuple[str, tuple[str, ...], Callable[..., None]]] = [
    (f"/api/models/{_NAME}", ("GET",), _Handler.info),
    (f"/api/models/{_NAME}/revision/{_PART}", ("GET",), _Handler.info),
    (f"/api/models/{_NAME}/tree/{_PART}", ("GET",), _Handler.tree),
    (f"/api/models/{_NAME}/paths-info/{_PART}", ("POST",), _Handler.paths_info),
    (f"/api/models/{_NAME}/preupload/{_PART}", ("POST",), _Handler.preupload),
    (f"/api/models/{_NAME}/commit/{_PART}", ("POST",), _Handler.commit),
    (f"/api/models/{_NAME}/branch/{_PART}", ("POST",), _Handler.branch),
    (f"/api/models/{_NAME}/tag/{_PART}", ("POST",), _Handler.tag),
    ("/api/repos/create", ("POST",), _Handler.create),
    ("/api/validate-yaml", ("POST",), _Handler.validate),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _Handler.batch),
    (f"/store/{_PART}", ("PUT",), _Handler.store),
    (f"/{_NAME}/resolve/{_PART}/(.+)", ("GET", "HEAD"), _Handler.resolve),
]


def hash_of(data: bytes) -> str:
    """Return the hex SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


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


def _etag(path: str, data: bytes) -> str:
    """Return a file's name in the hub's store, or git's name for it."""
    if path.endswith(_LARGE):
        return hash_of(data)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - as git names files


def _tree(files: Files) -> list[dict[str, object]]:
    """Return the entries of a repository's files, as the hub lists them."""
    return [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324 - as git
        | ({"lfs": {"oid": hash_of(data), "size": len(data), "pointerSize": 130}} if path.endswith(_LARGE) else {})
        for path, data in sorted(files.items())
    ]
