"""Running a server: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from mpt_edge._escapes import escaped
from mpt_edge.errors import InputError
from mpt_edge.inference.model import Model
from mpt_edge.server.app import create_app
from mpt_edge.server.connections import protocol
from mpt_edge.server.gate import Gate
from mpt_edge.server.keys import Keys
from mpt_edge.server.limits import Limits
from mpt_edge.server.service import Service, State

#: Names of this machine for programs on it.
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

#: Seconds for which an idle connection is kept.
_KEEP_ALIVE = 30

#: Seconds for which the last answers are sent to slow clients.
_LAST_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Address:
    """Address of a server."""

    host: str = "127.0.0.1"
    port: int = 8080
    """Port; 0 takes a free one."""
    names: Collection[str] = ()
    """Further names in the ``Host`` header, such as a proxy's."""


def serve(
    load: Callable[[], Model],
    address: Address,
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    grace: float = 30.0,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a model until a signal ends it.

    The first SIGTERM or Ctrl-C lets accepted requests finish and refuses new ones; a second one ends at once.

    Args:
        load: returns the model; called in a thread once the port is open.
        address: host and port.
        limits: limits of requests and queues.
        keys: keys that open the server.
        grace: seconds that accepted requests have after the signal.
        announce: called with the address, and once the model is loaded.

    Raises:
        InputError: the address cannot be used.
        MptEdgeError: the model cannot be loaded.
    """
    listener, limits = _listen(address), limits or Limits()
    _log_to_stderr()
    with listener:
        host, port = listener.getsockname()[:2]
        service = Service(load, limits)
        gate = create_app(service, keys, _names(host, address))
        config = uvicorn.Config(
            gate, http=protocol(limits.connections), ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_LAST_SECONDS,
        )  # fmt: skip
        server = _Server(config, service, gate, grace, announce)
        shown = f"[{host}]" if ":" in host else host
        announce(f"listening on http://{shown}:{port}")
        try:
            server.run([listener])
        finally:
            service.close()
        if server.error is not None:
            raise server.error


class _Server(uvicorn.Server):
    """A server that loads its model after its port is open, and stops in two steps."""

    def __init__(
        self, config: uvicorn.Config, service: Service, gate: Gate, grace: float, announce: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.error: Exception | None = None
        self._service, self._gate, self._grace, self._announce = service, gate, grace, announce
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._begin(self._load())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn calls it so
        if self._service.state is State.STOPPING or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(lambda: self._begin(self._stop()))

    async def _load(self) -> None:
        try:
            await self._service.load()
        except Exception as error:  # `serve` raises it
            self.error, self.should_exit = error, True
            return
        model = self._service.model
        count = "1 task" if len(model.tasks) == 1 else f"{len(model.tasks)} tasks"
        self._announce(f"ready: {count} on {model.manifest.backbone.get('id')}")

    async def _stop(self) -> None:
        self._service.state = State.STOPPING
        try:
            async with asyncio.timeout(self._grace):
                await self._gate.idle()
        except TimeoutError:
            logging.getLogger("mpt_edge.server").warning("some requests were not answered within %g s", self._grace)
        self.should_exit = True

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Escaping(logging.Formatter):
    """Messages without characters that a terminal would obey; some hold names from requests and files."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Escaping("mpt-edge: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _listen(address: Address) -> socket.socket:
    """Open the socket. Raises InputError."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        listener = socket.create_server(place[:2], family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {address.host}:{address.port} ({error.strerror or error}); pass another --host or "
            "--port, or --port 0 for a free one."
        ) from error
    return listener


def _names(host: str, address: Address) -> list[str] | None:
    """Return the names by which a server may be called; None for all, as on a network."""
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback and not address.names:
        return None
    return [*_LOOPBACK_NAMES, f"[{host}]" if ":" in host else host, address.host, *address.names]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone. Names other than localhost are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
