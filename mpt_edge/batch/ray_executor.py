"""Parts of a job on the workers of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from mpt_edge._extras import require
from mpt_edge.batch.executors import Results
from mpt_edge.batch.part_worker import PartResult, PartWorker
from mpt_edge.batch.parts import Part
from mpt_edge.errors import InputError, MptEdgeError

#: Parts that wait at a worker, with the one that it answers.
_QUEUE = 2

#: Workers that may end while they have the same part, and starts in a row that may fail.
_MAX_FAILURES = 3

#: Environment variable with the address of a running cluster.
ADDRESS = "RAY_ADDRESS"


class RayExecutor:
    """Runs parts on actors, one model each. A part whose worker or node is lost goes to another worker."""

    def __init__(self, workers: int | None = None) -> None:
        """Use at most ``workers`` workers; None for one on every CPU of the cluster."""
        self._workers = workers

    def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
        """Yield each part with its result.

        Raises:
            InputError: the cluster has too few CPUs, or workers end again and again.
            MissingExtraError: Ray is not installed.
        """
        first = next(parts, None)
        if first is None:  # a finished job needs no cluster
            return
        require("ray", "ray")
        is_ours = _connect()
        try:
            count = _worker_count(self._workers, worker.model.threads or 1)
            yield from _Pool(worker, count).run(first, parts)
        finally:
            if is_ours:
                import ray

                ray.shutdown()


class _Actor:
    """A worker's process."""

    def __init__(self, worker: PartWorker) -> None:
        self._worker = worker

    def load(self) -> MptEdgeError | None:
        return self._worker.load()

    def answer(self, part: Part) -> PartResult | MptEdgeError:
        return self._worker(part)


class _Pool:
    """Actors with the parts that they have. One that is lost is replaced as soon as there is room for it."""

    def __init__(self, worker: PartWorker, count: int) -> None:
        import ray

        self._worker, self._count = worker, count
        # Ray's own restarts would wait for a node that does not come back.
        options = {"num_cpus": worker.model.threads or 1, "max_restarts": 0, "max_task_retries": 0}
        self._actor_class = ray.remote(**options)(_Actor)
        self._starting: dict[Any, Any] = {}  # actors by the reference to their load
        self._ready: dict[Any, int] = {}  # number of parts of each actor that is loaded
        self._running: dict[Any, tuple[Any, Part]] = {}  # actor and part by the reference to the result
        self._returned: deque[Part] = deque()  # parts of workers that were lost
        self._losses: dict[int, int] = {}
        self._failed_starts = 0

    def run(self, first: Part, parts: Iterator[Part]) -> Results:
        import ray

        self._returned.append(first)
        try:
            for _ in range(self._count):
                self._start()
            while self._fill(parts) or self._running:
                (done,), _ = ray.wait([*self._running, *self._starting], num_returns=1)
                if done in self._starting:
                    self._finish_start(done)
                elif (result := self._finish(done)) is not None:
                    yield result
        finally:
            for actor in [*self._ready, *self._starting.values()]:
                ray.kill(actor)

    def _start(self) -> None:
        actor = self._actor_class.remote(self._worker)
        self._starting[actor.load.remote()] = actor

    def _finish_start(self, reference: Any) -> None:
        """Use an actor that has loaded its model. Raises its error."""
        import ray

        actor = self._starting.pop(reference)
        try:
            error = ray.get(reference)
        except ray.exceptions.RayActorError as lost:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILURES:
                reason = str(lost).strip().splitlines()[0]
                raise InputError(
                    f"Ray's workers do not start ({reason}); install mpt-edge on every node, and see Ray's logs."
                ) from lost
            self._start()
            return
        if error is not None:
            raise error
        self._failed_starts = 0
        self._ready[actor] = 0

    def _fill(self, parts: Iterator[Part]) -> bool:
        """Give parts to actors that have few; return whether parts are left, or cannot be given yet."""
        while True:
            part = self._returned.popleft() if self._returned else next(parts, None)
            if part is None:
                return False
            actor = min(self._ready, key=lambda each: self._ready[each], default=None)
            if actor is None or self._ready[actor] >= _QUEUE:
                self._returned.appendleft(part)
                return True
            self._ready[actor] += 1
            self._running[actor.answer.remote(part)] = actor, part

    def _finish(self, reference: Any) -> tuple[Part, PartResult | MptEdgeError] | None:
        """Return a part with its result; None for one whose worker or result was lost."""
        import ray

        actor, part = self._running.pop(reference)
        if actor in self._ready:
            self._ready[actor] -= 1
        try:
            return part, ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # an error of the code
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayActorError) and self._ready.pop(actor, None) is not None:
                self._start()
        self._return(part)
        return None

    def _return(self, part: Part) -> None:
        losses = self._losses[part.number] = self._losses.get(part.number, 0) + 1
        if losses >= _MAX_FAILURES:
            raise InputError(
                f"{losses} workers ended while they answered {part}, perhaps for want of memory; pass fewer --workers "
                "or --part-rows, and see Ray's logs."
            )
        self._returned.append(part)


def _connect() -> bool:
    """Connect to the cluster of `ADDRESS`, else start one on this machine; return whether it is to be left again."""
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get(ADDRESS):
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
        ray.init(address="local", include_dashboard=False, **quiet)
    return True


def _worker_count(wanted: int | None, threads: int) -> int:
    """Return the number of workers. Raises InputError for more than the cluster has CPUs for."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    room = cpus // threads
    if (wanted or 1) > room:
        raise InputError(
            f"{wanted or 1} workers of {threads} threads need more than the {cpus} CPUs of the cluster; pass fewer "
            "--workers or --threads."
        )
    return wanted or room
