"""Streamed texts: each runs in a thread of its own, beside the batches."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from mpt_edge.inference.answers import Generation, Stream
from mpt_edge.server.scheduler import QueueFullError

#: Seconds after which a client is asked to try again while all streams are taken.
_RETRY_AFTER = 5


class Streams:
    """A few threads that generate texts piece by piece. All methods belong to one event loop.

    A text is generated as fast as the model goes, however slowly its client reads: pieces wait in
    memory, and they are bounded by the task's ``max_new_tokens``.

    Attributes:
        active: number of texts that are generated or wait for a thread.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        """Prepare the threads.

        Args:
            threads: texts that are generated at once.
            waiting: maximum number of texts that wait for a thread.
        """
        self.active = 0
        self._max = threads + waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="streams")

    async def pieces(self, stream: Stream) -> AsyncGenerator[str | Generation]:
        """Yield the pieces of a text, then the whole answer. Closing it stops generation at the next piece.

        Raises:
            QueueFullError: too many texts wait already.
        """
        if self.active >= self._max:
            raise QueueFullError(_RETRY_AFTER)
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue[str | Generation | Exception]()
        gone = threading.Event()

        def put(piece: str | Generation | Exception) -> None:
            _tell(loop, arrived.put_nowait, piece)

        def generate() -> None:
            try:
                for piece in stream:
                    if gone.is_set():
                        return
                    put(piece)
                assert stream.answer is not None  # after the last piece
                put(stream.answer)
            except Exception as error:  # the reader raises it
                put(error)
            finally:
                stream.close()

        self.active += 1
        job = self._executor.submit(generate)
        job.add_done_callback(lambda _: _tell(loop, self._end))
        try:
            while True:
                piece = await arrived.get()
                if isinstance(piece, Exception):
                    _raise(piece)
                yield piece
                if isinstance(piece, Generation):
                    return
        finally:
            gone.set()
            job.cancel()  # only a text that still waits for a thread

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _end(self) -> None:
        self.active -= 1


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> None:
    """Call in the event loop, unless it has ended with the server."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


def _raise(error: Exception) -> NoReturn:
    raise error
