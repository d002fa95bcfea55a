"""HTTP servers in this process, called without a socket, and a real one in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpt_edge.inference.model import Model
from mpt_edge.server.app import create_app
from mpt_edge.server.gate import Gate
from mpt_edge.server.keys import Keys
from mpt_edge.server.limits import Limits
from mpt_edge.server.service import Service


@dataclass(frozen=True)
class Reply:
    """An answer of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    parts: Sequence[bytes] = ()
    """Parts in which the body was sent."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an error, in whatever form."""
        error = self.json["error"]
        return error if isinstance(error, str) else error["message"]


@dataclass
class App:
    """An app in an event loop of its own thread."""

    service: Service
    gate: Gate
    loop: asyncio.AbstractEventLoop
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """Send a request; a body that is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.run(self.send(method, path, [data], headers))

    def get(self, path: str, **headers: str) -> Reply:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> Reply:
        return self.call("POST", path, body, **headers)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def send(
        self, method: str, path: str, parts: Sequence[bytes], headers: Mapping[str, str] | None = None,
        *, leave_after: int | None = None, left: asyncio.Event | None = None, is_whole: bool = True,
    ) -> Reply:  # fmt: skip
        """Send a request whose body comes in parts, and perhaps leave after some of them, or once ``left`` is set.

        A body that is not whole never ends.
        """
        path, _, query = path.partition("?")
        given = {"host": "localhost", "content-length": str(sum(map(len, parts))), **self.headers, **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "state": {},
            "headers": [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in given.items()],
        }  # fmt: skip
        messages = [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(parts) or not is_whole}
            for i, part in enumerate(parts)
        ]
        if leave_after is not None:
            messages = [*messages[:leave_after], {"type": "http.disconnect"}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await (left.wait() if left is not None else asyncio.Event().wait())
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.gate(scope, receive, send)
        if not sent:
            return Reply(0, {}, b"")
        bodies = [message.get("body", b"") for message in sent[1:]]
        names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], names, b"".join(bodies), [body for body in bodies if body])


@contextlib.contextmanager
def app(
    load: Callable[[], Model],
    limits: Limits | None = None,
    keys: Keys | None = None,
    hosts: Sequence[str] | None = None,
) -> Iterator[App]:
    """Run an app in a thread; its model is not loaded yet."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def make() -> App:
        service = Service(load, limits)
        return App(service, create_app(service, keys, hosts), loop)

    made = asyncio.run_coroutine_threadsafe(make(), loop).result()
    try:
        yield made
    finally:
        made.service.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def ready(model: Model, **options: Any) -> Iterator[App]:
    """Run an app that is ready to answer."""
    with app(lambda: model, **options) as made:
        made.run(made.service.load())
        yield made


@dataclass
class Server:
    """A real server in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def fetch(self, path: str, body: bytes | None = None, **headers: str) -> Reply:
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return Reply(reply.status, dict(reply.headers), reply.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, dict(error.headers), error.read())


@contextlib.contextmanager
def served(bundle: Path, *options: object) -> Iterator[Server]:
    """Start `mpt-edge serve` on a free port, and end it."""
    command = [sys.executable, "-m", "mpt_edge", "serve", "--bundle", bundle, "--port", 0, *options]
    with _started(list(map(str, command)), Path.cwd()) as server:
        yield server


@contextlib.contextmanager
def served_by(script: str, folder: Path) -> Iterator[Server]:
    """Run a script that ends with `mpt-edge serve`, on a free port."""
    script = re.sub(r"^(mpt-edge serve.*)$", r"exec \1 --port 0", script, flags=re.MULTILINE)
    with _started(["bash", "-euo", "pipefail", "-c", script], folder) as server:
        yield server


@contextlib.contextmanager
def _started(command: list[str], folder: Path) -> Iterator[Server]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read() if process.stderr else ""
        assert process.stdout.readline().startswith("ready: ")
        yield Server(process, line.split()[-1])
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that happens in another thread or process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)
