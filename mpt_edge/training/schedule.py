"""Which rows of which tasks each training step sees, fixed by the seed alone.

The whole schedule is drawn before the first step, so a resumed run continues with exactly the
batches that an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Batches whose rows are sorted by length together: long enough to fill, short enough to stay random.
_BUCKET = 16


@dataclass(frozen=True)
class TaskBatch:
    """Rows of one task, by index into its training split.

    Attributes:
        task: the task.
        rows: the rows.
        whole: all rows of the batch that these are a part of, where it is read in parts; None where they are all.
    """

    task: int
    rows: NDArray[np.int64]
    whole: NDArray[np.int64] | None = None


def multitask_schedule(
    lengths: Sequence[NDArray[np.int64]],
    *,
    epochs: int,
    batch_size: int,
    examples_per_epoch: int,
    tasks_per_step: int,
    seed: int,
) -> list[list[TaskBatch]]:
    """Draw a run: per step a few batches, each of one task and of texts of similar length.

    Tasks are mixed in proportion to their rows, capped at ``examples_per_epoch`` (paper section 4.1).
    A task with more rows than the cap goes on where the epoch before stopped, so that all rows are
    seen in turn.

    Args:
        lengths: for each task the token counts of its training rows.
        epochs: passes over the capped mixture.
        batch_size: rows of one batch.
        examples_per_epoch: most rows of a task in one epoch.
        tasks_per_step: batches whose gradients are averaged in one step.
        seed: fixes the draw.
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
    """Draw a run by stochastic task sampling (paper section 3.2): a random number of tasks a step.

    Each step draws K uniformly from [2, ``max_tasks``], then K different tasks with odds in
    proportion to their capped rows, and splits its rows evenly over them, the first few taking what
    is left over. An epoch has as many steps as the capped mixture fills.

    Args:
        lengths: for each task the token counts of its training rows.
        epochs: passes over the capped mixture.
        rows_per_step: rows of one step, over all its tasks.
        examples_per_epoch: most rows of a task in one epoch.
        max_tasks: κ; no more than there are tasks are drawn.
        seed: fixes the draw.
    """
    rng = np.random.default_rng(seed)
    capped = np.array([min(len(tokens), examples_per_epoch) for tokens in lengths])
    odds = capped / capped.sum()
    decks = [_Deck(tokens, rows_per_step, rng) for tokens in lengths]
    steps = []
    for _ in range(epochs * max(1, int(capped.sum()) // rows_per_step)):
        most = min(max_tasks, len(lengths), rows_per_step)
        count = int(rng.integers(min(2, most), most + 1))
        tasks = rng.choice(len(lengths), count, replace=False, p=odds)
        shares = [rows_per_step // count + (i < rows_per_step % count) for i in range(count)]
        steps.append([TaskBatch(int(k), decks[k].deal(share)) for k, share in zip(tasks, shares, strict=True)])
    return steps


class _Deck:
    """A task's rows, dealt in random batches of similar length; shuffled anew when all were dealt."""

    def __init__(self, tokens: NDArray[np.int64], largest: int, rng: np.random.Generator) -> None:
        self._tokens, self._rng = tokens, rng
        self._chunk = min(len(tokens), largest * _BUCKET)
        self._queue = np.empty(0, np.int64)
        self._sorted = np.empty(0, np.int64)

    def deal(self, count: int) -> NDArray[np.int64]:
        """Take neighbors by length from a random place of the sorted chunk."""
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
        self._sorted = chunk[np.lexsort((self._rng.random(len(chunk)), self._tokens[chunk]))]


def _queue(rows: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-wanted // rows)
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:wanted]


def _bucketed(
    rows: NDArray[np.int64], tokens: NDArray[np.int64], size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(rows), size * _BUCKET):
        chunk = rows[start : start + size * _BUCKET]
        # A random second key keeps rows of equal length in random order.
        chunk = chunk[np.lexsort((rng.random(len(chunk)), tokens[chunk]))]
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    return batches
