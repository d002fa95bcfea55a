"""Selected tasks: prepared once each, without waiting for other tasks, and kept within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import numpy as np

from mpt_edge.inference.heads.base import SelectedTask

#: Bytes of selected tasks that are kept, unless the caller says otherwise: 24 tasks of 100 virtual tokens in all layers
#: of all-MiniLM-L6-v2, or 240 of ten.
MAX_CACHE_BYTES = 64 << 20


class Selection:
    """The most recently used of the selected tasks; safe under several threads.

    The last one used is kept, whatever its size. Requests under way keep the task that they hold.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Keep ``max_bytes`` of prompts, keys, values and heads."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[SelectedTask, int]] = OrderedDict()
        self._pending: dict[str, Future[SelectedTask]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the tasks that are kept, the least recently used first."""
        with self._lock:
            return list(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes of the tasks that are kept."""
        with self._lock:
            return self._bytes

    def get(self, name: str, select: Callable[[], SelectedTask]) -> SelectedTask:
        """Return a task, selected by the first of the threads that ask for it at once; the others wait for that one.

        An error of ``select`` goes to all of them, and the next call tries again.
        """
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                self._kept.move_to_end(name)
                return kept[0]
            pending = self._pending.get(name)
            if pending is None:
                mine = self._pending[name] = Future[SelectedTask]()
        if pending is not None:
            return pending.result()
        try:
            task = select()
        except BaseException as error:
            self._finish(name, mine, None)
            mine.set_exception(error)
            raise
        self._finish(name, mine, task)
        mine.set_result(task)
        return task

    def put(self, name: str, task: SelectedTask) -> None:
        """Keep a task in place of another of its name, selected or about to be."""
        with self._lock:
            self._pending.pop(name, None)
            self._keep(name, task)

    def drop(self, name: str) -> None:
        """Let go of a task, and of the one that is being selected under its name."""
        with self._lock:
            self._pending.pop(name, None)
            self._bytes -= self._kept.pop(name, (None, 0))[1]

    def __contains__(self, name: str) -> bool:
        """Whether a task is kept."""
        with self._lock:
            return name in self._kept

    def _finish(self, name: str, mine: Future[SelectedTask], task: SelectedTask | None) -> None:
        """Keep a task that was selected, unless another was put in its place meanwhile."""
        with self._lock:
            if self._pending.get(name) is mine:
                del self._pending[name]
                if task is not None:
                    self._keep(name, task)

    def _keep(self, name: str, task: SelectedTask) -> None:
        self._bytes -= self._kept.pop(name, (task, 0))[1]
        size = task_bytes(task)
        self._kept[name] = task, size
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed


def task_bytes(task: SelectedTask) -> int:
    """Return the bytes of a selected task's arrays."""
    own = task.file.own_prompt
    held: list[object] = [task.file.u, task.file.v, task.prompt, *task.cache.values()]
    held += [] if own is None else [own.values]
    held += [] if task.opening is None else task.opening.cache.values()
    held += vars(task.head).values()
    return sum(array.nbytes for array in _arrays(held))


def _arrays(values: Iterable[object]) -> Iterable[np.ndarray]:
    """Return the different arrays among values."""
    return {id(value): value for value in values if isinstance(value, np.ndarray)}.values()
