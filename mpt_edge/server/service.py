"""The model of a server: loaded once, fed by a queue, and changed under way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.generation_options import CONSTRAINTS, GenerationKwargs
from mpt_edge.inference.answers import Answer, Generation
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.heads.text_generation import TextGeneration
from mpt_edge.inference.model import Model
from mpt_edge.inference.task import Task
from mpt_edge.inference.text import Text
from mpt_edge.server import problems
from mpt_edge.server.limits import INLINE_CHARACTERS, Limits
from mpt_edge.server.metrics import Metrics
from mpt_edge.server.scheduler import BatchRules, QueueFullError, Scheduler
from mpt_edge.server.streams import Streams

_T = TypeVar("_T")

#: Threads that tokenize large requests and select tasks. Selecting a task of many labels takes a second or more.
_PREPARERS = 4

#: Seconds after which a waiting request looks whether its client is still there, and then again.
_LOOK = 1.0

_LOG = logging.getLogger("mpt_edge.server")


class State(StrEnum):
    """Phase of a server."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


class GoneError(Exception):
    """The client of a request has left."""


class Service:
    """One model and its queues. All methods but `close` belong to one event loop.

    Labels and vectors share one queue, generated texts have another, and streams have threads. So none of
    them waits for texts of another kind.

    Attributes:
        state: the phase.
        limits: limits of requests and queues.
        metrics: counts and times.
        changes: held while the bundle is changed.
    """

    def __init__(self, load: Callable[[], Model], limits: Limits | None = None, metrics: Metrics | None = None) -> None:
        """Keep the function that loads the model; see `load`."""
        self.state = State.LOADING
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self._load = load
        self._model: Model | None = None
        self._preparers = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="prepare")
        self._selecting: dict[str, asyncio.Future[Task[Any]]] = {}
        self.changes = asyncio.Lock()
        self._answers = self._scheduler("answers", self.limits.workers)
        self._texts = self._scheduler("texts")
        self._streams = Streams(self.limits.streams, self.limits.queue)
        self.metrics.watch(self)

    @property
    def model(self) -> Model:
        """The loaded model. Raises Problem while there is none."""
        if self._model is None:
            raise problems.unavailable("the model is being loaded; try again in a few seconds.")
        return self._model

    def check_ready(self) -> None:
        """Refuse new requests while the model is loaded, and once the server stops. Raises Problem."""
        if self.state is State.STOPPING:
            raise problems.unavailable("the server is stopping; send the request to another one.")
        if self.state is State.LOADING:
            raise problems.unavailable("the model is being loaded; try again in a few seconds.")

    @property
    def waiting(self) -> int:
        """Number of texts that wait."""
        return self._answers.waiting + self._texts.waiting

    @property
    def streaming(self) -> int:
        """Number of texts that are streamed or wait for it."""
        return self._streams.active

    @property
    def cached_tasks(self) -> int:
        """Number of tasks whose prompts are cached."""
        return len(self._model.cached_tasks) if self._model is not None else 0

    async def load(self) -> None:
        """Load the model, and be ready. Raises MptEdgeError."""
        self._model = await self._in_thread(self._load)
        if self.state is State.LOADING:
            self.state = State.READY

    def close(self) -> None:
        """End all threads after their work."""
        self._answers.close()
        self._texts.close()
        self._streams.close()
        self._preparers.shutdown(wait=False, cancel_futures=True)

    async def task(self, name: str) -> Task[Any]:
        """Select a task; requests for one that is being selected share a thread. Raises MptEdgeError."""
        model = self.model
        if model.is_selected(name):
            return model.task(name)
        if name not in self._selecting:
            self._selecting[name] = asyncio.ensure_future(self._in_thread(partial(model.task, name)))
            self._selecting[name].add_done_callback(lambda _: self._selecting.pop(name))
        return await asyncio.shield(self._selecting[name])

    async def prepare(
        self, texts: Sequence[Text], tasks: Sequence[str], options: GenerationKwargs | None = None
    ) -> list[Request | MptEdgeError]:
        """Validate and tokenize texts; each request keeps the version that its task has now.

        Raises:
            InputError: an option cannot be used.
        """
        model, options = self.model, options or {}
        is_selected = [await self._is_selected(name) for name in dict.fromkeys(tasks)]
        call = partial(model.prepare, texts, tasks, **options)
        is_constrained = any(options.get(name) is not None for name in CONSTRAINTS)
        is_quick = _characters(texts) <= INLINE_CHARACTERS and all(is_selected) and not is_constrained
        return call() if is_quick else await self._in_thread(call)

    async def prepare_embeddings(
        self, texts: Sequence[Text], task: str | None, *, normalize: bool
    ) -> list[Request | MptEdgeError]:
        """Validate and tokenize texts whose vectors are wanted; see `Model.prepare_embeddings`."""
        model = self.model
        call = partial(model.prepare_embeddings, texts, task, normalize=normalize)
        is_quick = _characters(texts) <= INLINE_CHARACTERS and (task is None or await self._is_selected(task))
        return call() if is_quick else await self._in_thread(call)

    async def answer(
        self, requests: Sequence[Request], is_gone: Callable[[], Awaitable[bool]] | None = None
    ) -> list[Answer | Exception]:
        """Answer prepared requests, in batches with those of others.

        Args:
            requests: the requests.
            is_gone: tells whether the client has left; its requests are then dropped.

        Returns:
            For each request its answer, or the error that it alone met.

        Raises:
            Problem: the queue is full.
            GoneError: the client has left.
        """
        kinds = [isinstance(request.task.head, TextGeneration) for request in requests]
        texts = [request for request, is_text in zip(requests, kinds, strict=True) if is_text]
        others = [request for request, is_text in zip(requests, kinds, strict=True) if not is_text]
        if texts and others:
            work = asyncio.gather(self._texts.submit(texts), self._answers.submit(others))
            written, chosen = await _until_gone(work, is_gone)
        elif texts:
            written, chosen = await _until_gone(asyncio.ensure_future(self._texts.submit(texts)), is_gone), []
        else:
            written, chosen = [], await _until_gone(asyncio.ensure_future(self._answers.submit(others)), is_gone)
        sources = {True: iter(written), False: iter(chosen)}
        return [next(sources[is_text]) for is_text in kinds]

    async def stream(self, text: Text, task: str, options: GenerationKwargs) -> AsyncGenerator[str | Generation]:
        """Return the pieces of a generated text, and the whole answer after them.

        Raises:
            MptEdgeError: the text or an option cannot be used, or the task generates no text.
        """
        selected = await self.task(task)
        stream = await self._in_thread(partial(selected.stream, text, **options))
        return _refusing(self._streams.pieces(stream))

    async def _is_selected(self, name: str) -> bool:
        """Select a task; return whether that succeeded. Where it did not, preparing its texts tells why."""
        try:
            await self.task(name)
        except MptEdgeError:
            return False
        return True

    async def in_thread(self, call: Callable[[], _T]) -> _T:
        """Run a call that takes long, such as a change of the bundle, beside the event loop."""
        return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._preparers, call)

    def _scheduler(self, name: str, workers: int = 1) -> Scheduler[Request, Answer | Exception]:
        limits = self.limits
        rules = BatchRules(
            items=limits.batch_texts, cost=limits.batch_tokens, waiting=limits.queue, max_delay=limits.max_delay,
            workers=workers,
        )  # fmt: skip
        return Scheduler(
            self._run,
            cost=lambda request: len(request.row.ids),
            rules=rules,
            executor=ThreadPoolExecutor(workers, thread_name_prefix=name),
            observe=partial(self.metrics.observe_batch, name),
        )

    def _run(self, requests: list[Request]) -> list[Answer | Exception]:
        """Answer a batch; where that fails, each request by itself, so that one spoils no other."""
        assert self._model is not None  # since there are requests
        try:
            return list(self._model.answer(requests, batch_size=self.limits.batch_texts))
        except Exception as error:  # of one request, or of all
            if len(requests) == 1:
                if not isinstance(error, MptEdgeError):
                    _LOG.exception("a request failed")
                return [error]
        return [result for request in requests for result in self._run([request])]


async def _refusing(pieces: AsyncGenerator[str | Generation]) -> AsyncGenerator[str | Generation]:
    """Yield pieces; a full queue is a problem with its time to try again."""
    async with contextlib.aclosing(pieces):
        with _refused():
            async for piece in pieces:
                yield piece


async def _until_gone(work: asyncio.Future[_T], is_gone: Callable[[], Awaitable[bool]] | None) -> _T:
    """Return the result of some work; drop it once its client has left. Raises GoneError and Problem."""
    with _refused():
        try:
            while is_gone is not None and not (await asyncio.wait({work}, timeout=_LOOK))[0]:
                if await is_gone():
                    raise GoneError
            return await work
        finally:
            work.cancel()


@contextlib.contextmanager
def _refused() -> Any:
    try:
        yield
    except QueueFullError as error:
        raise problems.Problem(
            429, f"too many texts wait for this server; try again in {error.retry_after} s.",
            {"Retry-After": str(error.retry_after)},
        ) from error  # fmt: skip


def _characters(texts: Sequence[object]) -> int:
    """Return the size of texts, which are not checked yet."""
    parts = [part for text in texts for part in (text if isinstance(text, tuple) else (text,))]
    return sum(len(part) for part in parts if isinstance(part, str))
