"""Training schedules: the rows of each step, drawn from the seed alone.

The whole schedule is drawn before the first step. A resumed run therefore continues with the same
batches as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Batches whose rows are sorted by length together: enough for little padding, few enough to stay random.
_BUCKET = 16


@dataclass(frozen=True)
class TaskBatch:
    """Rows of one task."""

    task: int
    """Index of the task."""
    rows: NDArray[np.int64]
    """Indices of examples in the training split."""
    whole: NDArray[np.int64] | None = None
    """All rows of the batch that these are a part of; None for a complete batch."""


def multitask_schedule(
    lengths: Sequence[NDArray[np.int64]],
    *,
    epochs: int,
    batch_size: int,
    examples_per_epoch: int,
    tasks_per_step: int,
    seed: int,
) -> list[list[TaskBatch]]:
    """Draw a schedule with a fixed number of batches per step, each of one task and of similar lengths.

    Tasks are mixed in proportion to their examples, capped at ``examples_per_epoch`` (paper section 4.1).
    A task with more examples than the cap continues in the next epoch, so that all are seen in turn.

    Args:
        lengths: for each task, the token counts of its training examples.
        epochs: passes over the capped mixture.
        batch_size: rows of one batch.
        examples_per_epoch: maximum number of examples of a task in one epoch.
        tasks_per_step: batches whose gradients are averaged in one step.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    queues = [_queue(len(tokens), min(len(tokens), examples_per_epoch) * epochs, rng) for tokens in lengths]
    steps: list[list[TaskBatch]] = []
    for epoch in range(epochs):
        batches: list[TaskBatch] = []
        for task, tokens in enumerate(lengths):
            count = min(len(tokens), examples_per_epoch)
            rows = queues[task][epoch * count : (epoch + 1) * count]
            batches += [TaskBatch(task, chosen) for chosen in _bucketed(rows, tokens, batch_size, rng)]
        order = rng.permutation(len(batches))
        shuffled = [batches[i] for i in order]
        steps += [shuffled[i : i + tasks_per_step] for i in range(0, len(shuffled), tasks_per_step)]
    return steps


def stochastic_schedule(
    lengths: Sequence[NDArray[np.int64]],
    *,
    epochs: int,
    rows_per_step: int,
    examples_per_epoch: int,
    max_tasks: int,
    seed: int,
) -> list[list[TaskBatch]]:
    """Draw a schedule by stochastic task sampling (paper section 3.2): a random number of tasks per step.

    Each step draws K uniformly from [2, ``max_tasks``], then K different tasks in proportion to their
    capped examples. Its rows are split evenly over them, and the first few tasks take the remainder.
    An epoch has as many steps as the capped mixture fills.

    Args:
        lengths: for each task, the token counts of its training examples.
        epochs: passes over the capped mixture.
        rows_per_step: rows of one step, over all its tasks.
        examples_per_epoch: maximum number of examples of a task in one epoch.
        max_tasks: κ; at most the number of tasks is drawn.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    capped = np.array([min(len(tokens), examples_per_epoch) for tokens in lengths])
    probs = capped / capped.sum()
    decks = [_Deck(tokens, rows_per_step, rng) for tokens in lengths]
    largest = min(max_tasks, len(lengths), rows_per_step)
    steps = []
    for _ in range(epochs * max(1, int(capped.sum()) // rows_per_step)):
        count = int(rng.integers(min(2, largest), largest + 1))
        tasks = rng.choice(len(lengths), count, replace=False, p=probs)
        shares = [rows_per_step // count + (i < rows_per_step % count) for i in range(count)]
        steps.append([TaskBatch(int(k), decks[k].deal(share)) for k, share in zip(tasks, shares, strict=True)])
    return steps


class _Deck:
    """A task's rows, dealt in random batches of similar length and reshuffled when all were dealt."""

    def __init__(self, tokens: NDArray[np.int64], largest: int, rng: np.random.Generator) -> None:
        self._tokens, self._rng = tokens, rng
        self._chunk = min(len(tokens), largest * _BUCKET)
        self._queue = np.empty(0, np.int64)
        self._sorted = np.empty(0, np.int64)

    def deal(self, count: int) -> NDArray[np.int64]:
        """Take neighbors by length from a random index of the sorted chunk."""
        if not len(self._sorted):
            self._refill()
        count = min(count, len(self._sorted))
        start = int(self._rng.integers(len(self._sorted) - count + 1))
        dealt = self._sorted[start : start + count]
        self._sorted = np.delete(self._sorted, slice(start, start + count))
        return dealt

    def _refill(self) -> None:
        if not len(self._queue):
            self._queue = self._rng.permutation(len(self._tokens))
        chunk, self._queue = self._queue[: self._chunk], self._queue[self._chunk :]
        self._sorted = _sort_by_length(chunk, self._tokens, self._rng)


def _queue(size: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ``count`` row numbers below ``size``, in as many permutations as needed."""
    rounds = -(-count // size)
    return np.concatenate([rng.permutation(size) for _ in range(rounds)])[:count]


def _bucketed(
    rows: NDArray[np.int64], tokens: NDArray[np.int64], size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split rows into batches of similar length."""
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(rows), size * _BUCKET):
        chunk = _sort_by_length(rows[start : start + size * _BUCKET], tokens, rng)
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    return batches


def _sort_by_length(rows: NDArray[np.int64], tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Sort rows by their token counts; a random second key keeps equal lengths in random order."""
    return rows[np.lexsort((rng.random(len(rows)), tokens[rows]))]
