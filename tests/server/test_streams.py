"""Streams: pieces from a thread, in order; clients that leave; a limit on those that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mpt_edge.inference.answers import Generation, Stream
from mpt_edge.server.scheduler import QueueFullError
from mpt_edge.server.streams import Streams


class Source:
    """A stream whose pieces come when the test lets them."""

    def __init__(self, pieces: int = 3, *, error: Exception | None = None, is_free: bool = True) -> None:
        self.allowed, self.is_closed, self.given = threading.Semaphore(pieces if is_free else 0), False, 0
        self._pieces, self._error = pieces, error
        self.stream = Stream(self._generate(), self._answer, truncated=False)

    def _generate(self) -> Iterator[str]:
        try:
            for number in range(self._pieces):
                self.allowed.acquire()
                self.given += 1
                yield str(number)
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True

    def _answer(self) -> Generation:
        return Generation(task="t", text="012", input_tokens=1, new_tokens=self._pieces, finish="eos")


def test_pieces_arrive_in_order_and_the_answer_last() -> None:
    async def run() -> list[object]:
        streams = Streams(1, 0)
        result = [piece async for piece in streams.pieces(Source().stream)]
        await _ended(streams)
        streams.close()
        return result

    *pieces, answer = asyncio.run(run())
    assert pieces == ["0", "1", "2"]
    assert isinstance(answer, Generation)


def test_an_error_of_the_model_reaches_the_reader() -> None:
    async def run() -> None:
        streams = Streams(1, 0)
        pieces = streams.pieces(Source(error=RuntimeError("damaged")).stream)
        assert [await anext(pieces) for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(RuntimeError, match="damaged"):
            await anext(pieces)
        await _ended(streams)
        streams.close()

    asyncio.run(run())


def test_a_reader_that_leaves_stops_the_generation() -> None:
    async def run() -> None:
        streams, source = Streams(1, 0), Source(pieces=1000, is_free=False)
        pieces = streams.pieces(source.stream)
        source.allowed.release()
        assert await anext(pieces) == "0"
        await pieces.aclose()
        source.allowed.release(5)
        await _ended(streams)
        assert source.is_closed
        assert source.given < 5
        streams.close()

    asyncio.run(run())


def test_more_streams_than_may_wait_are_refused_and_those_that_wait_get_their_turn() -> None:
    async def run() -> None:
        streams = Streams(1, 1)
        slow, waiting, refused = Source(is_free=False), Source(), Source()
        first = asyncio.ensure_future(_read(streams, slow))
        second = asyncio.ensure_future(_read(streams, waiting))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert streams.active == 2
        with pytest.raises(QueueFullError):
            await _read(streams, refused)
        slow.allowed.release(3)
        assert len(await first) == len(await second) == 4
        await _ended(streams)
        streams.close()

    asyncio.run(run())


async def _read(streams: Streams, source: Source) -> list[object]:
    return [piece async for piece in streams.pieces(source.stream)]


async def _ended(streams: Streams) -> None:
    async with asyncio.timeout(10):
        while streams.active:
            await asyncio.sleep(0.001)
