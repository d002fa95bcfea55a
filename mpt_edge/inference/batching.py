"""Grouping rows of similar length into batches, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mpt_edge._arrays import Ids

#: Padded tokens of one run of a generative model's graph, unless a single row has more. This bounds a run's memory.
MAX_TOKENS = 4096

#: The same for an encoder. A token of all-MiniLM-L6-v2 takes the same time in runs of 256 to 1,024 tokens, and more in
#: runs that outgrow the processor's caches. The shortest of these need the least memory.
ENCODER_TOKENS = 256

#: Cost of a further run of an encoder's graph, in tokens: 6 to 18 on all-MiniLM-L6-v2 with one and two threads.
RUN_COST = 12

#: Cost of a further forward pass on a CPU, in tokens. Of 16 to 512, training steps on all-MiniLM-L6-v2 (32 texts,
#: one thread) were fastest with 64 to 256, which are within four percent of each other.
PASS_COST = 128


def by_length(lengths: Sequence[int], max_rows: int, max_tokens: int) -> Iterator[list[int]]:
    """Yield the positions of rows that make a batch, the shortest rows first.

    Args:
        lengths: tokens of each row.
        max_rows: maximum rows of a batch, at least 1.
        max_tokens: maximum tokens of a batch, padding included; a longer row is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    for stop in range(1, len(order) + 1):
        rows = stop - start
        if stop == len(order) or rows == max_rows or lengths[order[stop]] * (rows + 1) > max_tokens:
            yield order[start:stop]
            start = stop


def length_buckets(lengths: Sequence[int], pass_cost: int = PASS_COST) -> list[Ids]:
    """Split rows into forward passes of similar length with the lowest total cost.

    A pass costs its padded tokens plus ``pass_cost``. The best splits are runs of the rows in order
    of length, so the cheapest one is a shortest path.

    Args:
        lengths: tokens of each row; at least one row.
        pass_cost: fixed cost of each pass, in tokens.

    Returns:
        The positions of the rows of each pass, shortest first; together all rows.
    """
    tokens = np.asarray(lengths)
    order = np.argsort(tokens, kind="stable")
    cheapest, began = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for stop in range(1, len(order) + 1):  # the last pass has the rows from `start` to `stop`
        starts = np.arange(stop)
        costs = cheapest[:stop] + (stop - starts) * tokens[order[stop - 1]] + pass_cost
        began[stop], cheapest[stop] = costs.argmin(), costs.min()
    buckets, stop = [], len(order)
    while stop:
        buckets.append(order[began[stop] : stop])
        stop = int(began[stop])
    return buckets[::-1]
