"""Mixed batches: one queue for the items of all requests, and few worker threads that run them.

While batches run, requests arrive. The next batch takes items of all of them, one of each in turn. So
requests of one text do not wait for all texts of a large one. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

#: Weight of the latest batch in the mean time of an item.
_RECENT = 0.2


class QueueFullError(Exception):
    """The queue has no room for a request's items."""

    def __init__(self, retry_after: int) -> None:
        """Keep the seconds after which there is likely to be room."""
        super().__init__(f"the queue is full; try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """Size of batches, and of the queue."""

    items: int = 32
    """Maximum number of items of a batch."""
    cost: int = 4096
    """Maximum cost of a batch, unless one item costs more."""
    waiting: int = 1024
    """Maximum number of items that wait."""
    max_delay: float = 0.002
    """Seconds for which a batch waits for requests that may come."""
    workers: int = 1
    """Maximum number of batches that run at once."""


class _Ticket(Generic[I, R]):
    """One request's items and their results."""

    def __init__(self, items: Sequence[I], result: asyncio.Future[list[R]]) -> None:
        self.items, self.result = items, result
        self.results: dict[int, R] = {}
        self.taken = 0

    @property
    def left(self) -> int:
        """Number of items that wait."""
        return len(self.items) - self.taken


_Batch = list[tuple[_Ticket[I, R], int]]


class Scheduler(Generic[I, R]):
    """Runs items of many requests in batches.

    Attributes:
        waiting: number of items that wait.
    """

    def __init__(
        self,
        run: Callable[[list[I]], list[R]],
        *,
        cost: Callable[[I], int],
        rules: BatchRules | None = None,
        executor: Executor | None = None,
        observe: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        """Prepare an empty queue.

        Args:
            run: returns the results of a batch, in order. It is called in the worker thread.
            cost: cost of an item, such as its tokens.
            rules: size of batches and of the queue.
            executor: the workers; threads of its own if not given.
            observe: called after each batch with its size and its seconds.
        """
        self.waiting = 0
        self._run, self._cost, self._observe = run, cost, observe
        self._rules = rules or BatchRules()
        self._executor = executor or ThreadPoolExecutor(self._rules.workers, thread_name_prefix="batches")
        self._tickets: deque[_Ticket[I, R]] = deque()
        self._running = 0
        self._company = 0  # requests that were here when the last batch ended
        self._hold_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._mean = 0.0

    async def submit(self, items: Sequence[I]) -> list[R]:
        """Return the results of a request's items, in order.

        A request that is cancelled leaves the queue; items of it that run already are finished.

        Raises:
            QueueFullError: they do not fit into the queue.
        """
        if not items:
            return []
        if self.waiting + len(items) > self._rules.waiting:
            raise QueueFullError(self.retry_after)
        ticket: _Ticket[I, R] = _Ticket(items, asyncio.get_running_loop().create_future())
        self._tickets.append(ticket)
        self.waiting += len(items)
        self._start()
        try:
            return await ticket.result
        finally:
            self._withdraw(ticket)

    @property
    def retry_after(self) -> int:
        """Whole seconds in which the waiting items are likely to be done, 1 to 60."""
        return min(60, max(1, math.ceil(self._mean * self.waiting)))

    def close(self) -> None:
        """End the worker after its batch."""
        if self._timer is not None:
            self._timer.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _withdraw(self, ticket: _Ticket[I, R]) -> None:
        """Remove a request's items that still wait, as after its client has left."""
        if ticket.left:
            self._tickets.remove(ticket)
            self.waiting -= ticket.left
            ticket.taken = len(ticket.items)

    def _start(self) -> None:
        """Run the next batch, if a worker is free and the batch is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running >= self._rules.workers or not self._tickets:
            return
        loop = asyncio.get_running_loop()
        if not self._is_due(loop.time()):
            self._timer = loop.call_at(self._hold_until, self._start)
            return
        batch = self._take()
        self._running, began = self._running + 1, loop.time()
        future = loop.run_in_executor(self._executor, self._run, [ticket.items[i] for ticket, i in batch])
        future.add_done_callback(partial(self._finish, batch, began))

    def _is_due(self, now: float) -> bool:
        """Whether nothing is gained by waiting: the batch is full, or all requests of the last moment are back.

        A request that comes alone finds no company, so it never waits.
        """
        is_full = self.waiting >= self._rules.items
        return is_full or len(self._tickets) >= self._company or now >= self._hold_until

    def _take(self) -> _Batch[I, R]:
        """Take one item of each request in turn, until the batch is full."""
        batch: _Batch[I, R] = []
        cost = 0
        while self._tickets and len(batch) < self._rules.items:
            ticket = self._tickets[0]
            cost += self._cost(ticket.items[ticket.taken])
            if batch and cost > self._rules.cost:
                break
            self._tickets.popleft()
            batch.append((ticket, ticket.taken))
            ticket.taken += 1
            if ticket.left:
                self._tickets.append(ticket)
        self.waiting -= len(batch)
        return batch

    def _finish(self, batch: _Batch[I, R], began: float, future: asyncio.Future[list[R]]) -> None:
        """Hand out the results of a batch, and start the next one."""
        now = asyncio.get_running_loop().time()
        self._running -= 1
        error = None if future.cancelled() else future.exception()
        if not future.cancelled():
            self._observe(len(batch), now - began)
        self._mean += _RECENT * ((now - began) / len(batch) - self._mean)
        self._company = len({id(ticket) for ticket, _ in batch} | {id(ticket) for ticket in self._tickets})
        self._hold_until = now + (self._rules.max_delay if self._company > 1 else 0.0)
        if error is not None or future.cancelled():
            self._fail(batch, error)
        else:
            self._deliver(batch, future.result())
        self._start()

    def _deliver(self, batch: _Batch[I, R], results: list[R]) -> None:
        for (ticket, i), result in zip(batch, results, strict=True):
            ticket.results[i] = result
            if len(ticket.results) == len(ticket.items) and not ticket.result.done():
                ticket.result.set_result([ticket.results[k] for k in range(len(ticket.items))])

    def _fail(self, batch: _Batch[I, R], error: BaseException | None) -> None:
        for ticket, _ in batch:
            self._withdraw(ticket)
            if not ticket.result.done():
                if error is None:
                    ticket.result.cancel()
                else:
                    ticket.result.set_exception(error)
