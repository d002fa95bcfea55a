"""The scheduler by itself: a worker that runs when the test says so, and no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from mpt_edge.server.scheduler import BatchRules, QueueFullError, Scheduler


class Worker(Executor):
    """An executor whose calls run when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.calls.append((future, fn, args))
        return future

    @property
    def batch(self) -> list[Any]:
        """Items of the batch that waits to be run."""
        ((_, _, (items,)),) = self.calls
        return list(items)

    async def finish(self) -> list[Any]:
        """Run the batch that waits, and return its items."""
        future, fn, (items,) = self.calls.pop()
        try:
            future.set_result(fn(items))
        except Exception as error:
            future.set_exception(error)
        await settle()
        return list(items)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def answers(items: list[Any]) -> list[str]:
    return [f"answer to {item}" for item in items]


def make(run: Callable[[list[Any]], list[Any]] = answers, **rules: Any) -> tuple[Scheduler[Any, Any], Worker]:
    worker = Worker()
    rules = {"max_delay": 0.0, **rules}
    return Scheduler(run, cost=lambda item: len(str(item)), rules=BatchRules(**rules), executor=worker), worker


async def submit(scheduler: Scheduler[Any, Any], *items: Any) -> asyncio.Task[list[Any]]:
    task = asyncio.create_task(scheduler.submit(items))
    await settle()
    return task


def run_async(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@run_async
async def test_a_request_alone_runs_at_once_whatever_the_delay() -> None:
    scheduler, worker = make(max_delay=3600)
    first = await submit(scheduler, "a")
    assert worker.batch == ["a"]
    await worker.finish()
    assert await first == ["answer to a"]
    second = await submit(scheduler, "b")
    assert worker.batch == ["b"]
    await worker.finish()
    assert await second == ["answer to b"]


@run_async
async def test_requests_that_come_during_a_batch_are_merged_into_the_next() -> None:
    scheduler, worker = make()
    tasks = [await submit(scheduler, item) for item in "abc"]
    assert await worker.finish() == ["a"]
    assert await worker.finish() == ["b", "c"]
    assert [await task for task in tasks] == [["answer to a"], ["answer to b"], ["answer to c"]]


@run_async
async def test_as_many_batches_run_at_once_as_there_are_workers() -> None:
    scheduler, worker = make(workers=2)
    tasks = [await submit(scheduler, item) for item in "abcd"]
    assert [list(items) for _, _, (items,) in worker.calls] == [["a"], ["b"]]
    assert await worker.finish() == ["b"]
    assert [list(items) for _, _, (items,) in worker.calls] == [["a"], ["c", "d"]]
    while worker.calls:
        await worker.finish()
    assert [await task for task in tasks] == [[f"answer to {item}"] for item in "abcd"]


@run_async
async def test_each_request_gets_its_own_results_in_order() -> None:
    scheduler, worker = make(items=3)
    many = await submit(scheduler, *"abcdefg")
    few = await submit(scheduler, "x", "y")
    while worker.calls:
        await worker.finish()
    assert await many == answers(list("abcdefg"))
    assert await few == answers(["x", "y"])


@run_async
async def test_a_large_request_does_not_keep_small_ones_waiting() -> None:
    scheduler, worker = make(items=4)
    large = await submit(scheduler, *range(100))
    small = [await submit(scheduler, name) for name in ("x", "y")]
    assert await worker.finish() == [0, 1, 2, 3]
    assert set(worker.batch) >= {"x", "y"}  # beside two texts of the large one
    await worker.finish()
    assert all(task.done() for task in small)
    assert not large.done()
    while worker.calls:
        await worker.finish()
    assert await large == answers(list(range(100)))


@run_async
async def test_a_batch_waits_for_the_others_of_the_last_one_and_no_longer() -> None:
    scheduler, worker = make(max_delay=3600)
    tasks = [await submit(scheduler, item) for item in "abc"]
    await worker.finish()  # a alone; b and c wait for a's client to come back
    assert not worker.calls
    tasks.append(await submit(scheduler, "d"))
    assert worker.batch == ["b", "c", "d"]
    await worker.finish()
    assert all(task.done() for task in tasks)


@run_async
async def test_a_batch_that_waits_in_vain_runs_after_the_delay() -> None:
    scheduler, worker = make(max_delay=0.001)
    tasks = [await submit(scheduler, item) for item in "abc"]
    await worker.finish()
    while not worker.calls:
        await asyncio.sleep(0.0005)
    assert await worker.finish() == ["b", "c"]
    assert all(task.done() for task in tasks)
    assert scheduler.waiting == 0


@run_async
async def test_a_full_batch_waits_for_nobody() -> None:
    scheduler, worker = make(max_delay=3600, items=2)
    tasks = [await submit(scheduler, item) for item in "abcde"]
    assert await worker.finish() == ["a"]
    assert await worker.finish() == ["b", "c"]
    assert await worker.finish() == ["d", "e"]
    assert all(task.done() for task in tasks)


@run_async
async def test_cost_bounds_a_batch_but_for_a_single_item() -> None:
    scheduler, worker = make(cost=6)
    await submit(scheduler, "first")
    tasks = [await submit(scheduler, item) for item in ("aaa", "bbb", "c" * 10, "d")]
    sizes = []
    while worker.calls:
        sizes.append(await worker.finish())
    assert sizes == [["first"], ["aaa", "bbb"], ["c" * 10], ["d"]]
    assert all(task.done() for task in tasks)


@run_async
async def test_a_full_queue_refuses_a_request_and_keeps_the_others() -> None:
    scheduler, worker = make(waiting=3)
    running, waiting = await submit(scheduler, "a"), await submit(scheduler, "b", "c")
    assert scheduler.waiting == 2
    with pytest.raises(QueueFullError) as caught:
        await scheduler.submit(["d", "e"])
    assert 1 <= caught.value.retry_after <= 60
    fits = await submit(scheduler, "f")
    while worker.calls:
        await worker.finish()
    assert await running == ["answer to a"]
    assert await waiting == ["answer to b", "answer to c"]
    assert await fits == ["answer to f"]
    assert scheduler.waiting == 0


@run_async
async def test_a_client_that_leaves_takes_its_items_with_it() -> None:
    scheduler, worker = make(items=2)
    await submit(scheduler, "a")
    left, stays = await submit(scheduler, *"bcdef"), await submit(scheduler, "x")
    left.cancel()
    await settle()
    assert scheduler.waiting == 1
    await worker.finish()
    assert await worker.finish() == ["x"]
    assert await stays == ["answer to x"]


@run_async
async def test_a_client_that_leaves_during_its_batch_disturbs_nobody() -> None:
    scheduler, worker = make()
    await submit(scheduler, "a")
    left, stays = await submit(scheduler, "b"), await submit(scheduler, "c")
    await worker.finish()
    left.cancel()
    await settle()
    assert await worker.finish() == ["b", "c"]
    assert await stays == ["answer to c"]


@run_async
async def test_a_batch_that_fails_fails_its_requests_and_no_others() -> None:
    def run(items: list[str]) -> list[str]:
        if "bad" in items:
            raise RuntimeError("broken")
        return answers(items)

    scheduler, worker = make(run, items=2)
    good = await submit(scheduler, "a")
    bad = await submit(scheduler, "bad", "rest", "of", "it")
    await worker.finish()
    await worker.finish()
    assert await good == ["answer to a"]
    with pytest.raises(RuntimeError, match="broken"):
        await bad
    assert scheduler.waiting == 0
    later = await submit(scheduler, "b")
    await worker.finish()
    assert await later == ["answer to b"]


@run_async
async def test_sizes_and_times_are_observed() -> None:
    seen: list[tuple[int, float]] = []
    worker = Worker()
    scheduler = Scheduler(
        answers, cost=len, rules=BatchRules(max_delay=0), executor=worker, observe=lambda *each: seen.append(each)
    )
    await submit(scheduler, "a")
    await submit(scheduler, "b", "c")
    await worker.finish()
    await worker.finish()
    assert [size for size, _ in seen] == [1, 2]
    assert all(seconds >= 0 for _, seconds in seen)


@run_async
async def test_no_items_need_no_worker() -> None:
    scheduler, worker = make()
    assert await scheduler.submit([]) == []
    assert not worker.calls


def test_many_clients_on_real_threads_get_their_own_answers() -> None:
    async def client(scheduler: Scheduler[int, int], number: int) -> None:
        for turn in range(20):
            items = [number * 1000 + turn * 10 + i for i in range(1 + number % 5)]
            assert await scheduler.submit(items) == [-item for item in items]

    async def run() -> None:
        scheduler = Scheduler(lambda items: [-item for item in items], cost=lambda _: 1, rules=BatchRules(items=7))
        await asyncio.gather(*(client(scheduler, number) for number in range(30)))
        assert scheduler.waiting == 0
        scheduler.close()

    asyncio.run(run())
