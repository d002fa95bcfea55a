"""Checks of every request before it reaches a route: host, origin, key, state of the server, size of the body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from mpt_edge.server import problems
from mpt_edge.server.keys import Access, Keys
from mpt_edge.server.limits import DRAIN_SECONDS, HELD_BYTES, READ_SECONDS
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import GoneError, Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Paths that need no key: health checks, and pages without data.
OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json", "/v2/health/live", "/v2/health/ready"})

#: Beginning of the paths of static files, which need no key.
STATIC = "/static/"

#: Routes that answer whatever the state of the server.
_ALWAYS = OPEN_PATHS | {"/metrics"}

#: Route whose bodies are task files, which have a limit of their own.
TASKS = "/tasks"


class Gate:
    """ASGI middleware around all routes.

    Attributes:
        running: number of accepted requests that are not answered yet.
    """

    def __init__(
        self, app: App, service: Service, keys: Keys, hosts: Collection[str] | None, upload_bytes: int
    ) -> None:
        """Wrap an app.

        Args:
            app: the routes.
            service: the service behind them.
            keys: the keys that open it.
            hosts: names in the ``Host`` header; None allows all.
            upload_bytes: maximum size of an uploaded task file.
        """
        self.running = 0
        self._app, self._service, self._keys = app, service, keys
        self._hosts = None if hosts is None else frozenset(map(str.lower, hosts))
        self._upload_bytes, self._held = upload_bytes, 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def idle(self) -> None:
        """Wait until all accepted requests are answered."""
        await self._is_idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and pass it on or refuse it."""
        if scope["type"] != "http":
            return  # no lifespan, no web sockets
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.running += 1
        self._is_idle.clear()
        try:
            await self._pass(scope, receive, sending)
        except GoneError:
            status = 499
        finally:
            self.running -= 1
            if not self.running:
                self._is_idle.set()
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.observe_request(route, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = _headers(scope), scope["path"]
        try:
            self._check_host(headers)
            _check_origin(headers)
            scope["access"] = self._checked_access(headers, path)
            if path not in _ALWAYS and not path.startswith(STATIC):
                self._service.check_ready()
            body = await self._body(headers, self._limit(scope), receive)
        except Problem as problem:
            await _refuse(problem, scope, receive, send)
            return
        try:
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= len(body)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Refuse names that a foreign page could have pointed at this machine (DNS rebinding). Raises Problem."""
        if self._hosts is None:
            return
        host = _name(headers.get(b"host", b"").decode("latin-1"))
        if host not in self._hosts:
            raise Problem(
                421, f"this server is not {host or 'a host without a name'}; use one of its names, "
                f"{', '.join(sorted(self._hosts))}, or start it with --allowed-host.",
            )  # fmt: skip

    def _checked_access(self, headers: dict[bytes, bytes], path: str) -> Access:
        """Return the rights of a request. Raises Problem for one without a valid key where one is needed."""
        given = headers.get(b"authorization")
        access = self._keys.access(given.decode("latin-1") if given is not None else None)
        if access is Access.NONE and path not in OPEN_PATHS and not path.startswith(STATIC):
            words = "the key is not valid" if given is not None else "there is no key"
            raise Problem(
                401, f"{words}; send the header 'Authorization: Bearer KEY' with a key of this server.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return access

    def _limit(self, scope: Scope) -> int:
        """Return the maximum size of a request's body; task files are larger than texts."""
        is_upload = scope["path"] == TASKS and scope["access"] is Access.ADMIN
        return self._upload_bytes if is_upload else self._service.limits.body_bytes

    async def _body(self, headers: dict[bytes, bytes], limit: int, receive: Receive) -> bytes:
        """Read a body up to its limit. Raises Problem for one that is larger or too slow."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        if declared == b"0" or (not declared and b"transfer-encoding" not in headers):
            return b""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._read(receive, limit)
        except TimeoutError:
            raise Problem(
                408, f"the body did not come within {READ_SECONDS:g} s; send it again, in smaller parts.",
                {"Connection": "close"},
            ) from None  # fmt: skip

    async def _read(self, receive: Receive, limit: int) -> bytes:
        """Read a body, which counts as held from now on. Raises Problem."""
        parts, size = [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                part = message.get("body", b"")
                size, self._held = size + len(part), self._held + len(part)
                if size > limit:
                    raise _too_large(limit)
                if self._held > HELD_BYTES + self._upload_bytes:
                    raise problems.unavailable("too many large bodies come at once; try again in a few seconds.")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
        except BaseException:
            self._held -= size
            raise


def _too_large(limit: int) -> Problem:
    return Problem(
        413, f"the body is larger than the {limit:,} bytes that this server reads; send fewer texts at once.",
        {"Connection": "close"},
    )  # fmt: skip


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that hands out a body that was read, and then what else the client does."""
    is_read = False

    async def replay() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a refusal. Of a body that still comes, some is read, or its sender would see a broken connection."""
    response = problems.answer_to(problem, scope["path"])
    await send({"type": "http.response.start", "status": problem.status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if problem.headers.get("Connection") == "close":
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_origin(headers: dict[bytes, bytes]) -> None:
    """Refuse requests of pages of other sites, which browsers mark by their origin. Raises Problem."""
    origin = headers.get(b"origin")
    if origin is None:
        return
    if urlsplit(origin.decode("latin-1")).netloc.lower() != headers.get(b"host", b"").decode("latin-1").lower():
        raise Problem(403, "a page of another site may not use this server; call it from your own server.")


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _name(host: str) -> str:
    """Return the name in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()
