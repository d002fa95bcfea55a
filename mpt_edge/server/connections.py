"""Connections: a limit on their number, and on the time for a request's headers."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mpt_edge.server.limits import READ_SECONDS


def protocol(max_connections: int) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol for at most so many open connections."""
    return type("Protocol", (_Protocol,), {"max_connections": max_connections})


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol with limits, so that idle and slow clients take nothing from others."""

    max_connections: ClassVar[int]
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Refuse a connection beyond the limit."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Read data; whether it ends the headers decides how long the next may take."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._unwatch()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Close the connection in time, unless a request is being answered."""
        if self._is_answering:
            self._unwatch()
        elif self.timer is None:
            self.timer = self.loop.call_later(READ_SECONDS, self._expire)

    def _unwatch(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _expire(self) -> None:
        self.timer = None
        if not self._is_answering:
            self.transport.close()
