"""Connections: a limit on their number, and on the time for headers, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn

from mpt_edge.server import connections

Test = Callable[[int], Awaitable[None]]


async def app(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def serve(max_connections: int, test: Test) -> None:
    async def run() -> None:
        config = uvicorn.Config(
            app, http=connections.protocol(max_connections), port=0, lifespan="off", log_config=None, ws="none"
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.001)
        await test(server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = server.force_exit = True
        await task

    asyncio.run(run())


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    reply = await reader.read()
    writer.close()
    return reply


async def ask_in_vain(port: int) -> bytes:
    """Return the reply; nothing from a connection that is closed."""
    try:
        return await ask(port)
    except ConnectionError:
        return b""


def test_slow_headers_end_a_connection_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)

    async def test(port: int) -> None:
        slow, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTT")
        silent, other = await asyncio.open_connection("127.0.0.1", port)
        assert (await ask(port)).endswith(b"ok")
        async with asyncio.timeout(5):
            assert await slow.read() == await silent.read() == b""
        writer.close()
        other.close()

    serve(10, test)


def test_slow_headers_of_a_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTT")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    serve(10, test)


def test_connections_beyond_the_limit_are_closed_and_their_places_come_back() -> None:
    async def test(port: int) -> None:
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await ask_in_vain(port) == b""
        for _, writer in kept:
            writer.close()
        async with asyncio.timeout(5):
            while not (await ask_in_vain(port)).endswith(b"ok"):
                await asyncio.sleep(0.01)

    serve(2, test)
