"""Which rows are read together: rows of similar length, as many as fit, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Padded tokens of one run of a graph, unless a single row has more: what bounds the memory of a run.
MOST_TOKENS = 4096


def by_length(lengths: Sequence[int], most_rows: int, most_tokens: int) -> Iterator[list[int]]:
    """Yield the places of rows that make a batch, the shortest rows first.

    Args:
        lengths: tokens of each row.
        most_rows: most rows of a batch, at least 1.
        most_tokens: most tokens of a batch, padding counted; a row that is longer makes a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    for stop in range(1, len(order) + 1):
        rows = stop - start
        if stop == len(order) or rows == most_rows or lengths[order[stop]] * (rows + 1) > most_tokens:
            yield order[start:stop]
            start = stop
