"""Which rows are read together: rows of similar length, as many as fit, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Padded tokens of one run of a graph, unless a single row has more: what bounds the memory of a run.
MAX_TOKENS = 4096


def by_length(lengths: Sequence[int], max_rows: int, max_tokens: int) -> Iterator[list[int]]:
    """Yield the places of rows that make a batch, the shortest rows first.

    Args:
        lengths: tokens of each row.
        max_rows: most rows of a batch, at least 1.
        max_tokens: most tokens of a batch, padding counted; a row that is longer makes a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    for stop in range(1, len(order) + 1):
        rows = stop - start
        if stop == len(order) or rows == max_rows or lengths[order[stop]] * (rows + 1) > max_tokens:
            yield order[start:stop]
            start = stop


#: What a further read costs on a CPU, in tokens that could have been read instead. Of 16 to 512, training steps on
#: all-MiniLM-L6-v2 (32 texts, one thread) were fastest with 64 to 256, which are within four percent of each other.
READ_COST = 128


def length_buckets(lengths: Sequence[int], read_cost: int = READ_COST) -> list[NDArray[np.int64]]:
    """Split rows into reads of similar length, so that tokens, filling and further reads cost least in all.

    Best splits are runs of the rows in order of length, so the cheapest one is a shortest path over them.

    Args:
        lengths: tokens of each row; at least one row.
        read_cost: what each read costs besides, in tokens.

    Returns:
        The rows of each read by number, shortest first; together all rows.
    """
    tokens = np.asarray(lengths)
    order = np.argsort(tokens, kind="stable")
    cheapest, began = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for stop in range(1, len(order) + 1):  # the last read takes the rows from `start` to `stop`
        starts = np.arange(stop)
        costs = cheapest[:stop] + (stop - starts) * tokens[order[stop - 1]] + read_cost
        began[stop], cheapest[stop] = costs.argmin(), costs.min()
    reads, stop = [], len(order)
    while stop:
        reads.append(order[began[stop] : stop])
        stop = int(began[stop])
    return reads[::-1]
