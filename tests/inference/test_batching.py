"""Batches within their limits, and length buckets against all splits there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mpt_edge.inference.batching import by_length, length_buckets


@pytest.mark.parametrize("seed", range(50))
def test_batches_are_within_their_limits_and_full(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, rng.integers(0, 40)).tolist()
    rows, tokens = int(rng.integers(1, 9)), int(rng.integers(1, 120))
    batches = list(by_length(lengths, rows, tokens))
    order = [position for batch in batches for position in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[position] for position in order] == sorted(lengths)
    for batch, following in zip(batches, [*batches[1:], None], strict=False):
        longest = max(lengths[position] for position in batch)
        assert len(batch) == 1 or (len(batch) <= rows and len(batch) * longest <= tokens)
        if following is not None:  # its first row did not fit any more
            assert len(batch) == rows or (len(batch) + 1) * lengths[following[0]] > tokens


def cost(buckets: list[list[int]], pass_cost: int) -> int:
    return sum(len(part) * max(part) + pass_cost for part in buckets)


def cheapest(lengths: list[int], pass_cost: int) -> int:
    """Return the lowest cost over all splits of the sorted lengths."""
    ordered, count = sorted(lengths), len(lengths)
    cuts = (inner for k in range(count) for inner in combinations(range(1, count), k))
    return min(
        cost([ordered[a:b] for a, b in zip((0, *inner), (*inner, count), strict=True)], pass_cost) for inner in cuts
    )


@pytest.mark.parametrize("pass_cost", [0, 5, 40, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_no_split_costs_less(seed: int, pass_cost: int) -> None:
    lengths = np.random.default_rng(seed).integers(3, 60, 9).tolist()
    buckets = length_buckets(lengths, pass_cost)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(9))
    assert cost([[lengths[i] for i in part] for part in buckets], pass_cost) == cheapest(lengths, pass_cost)


def test_texts_of_one_length_are_read_at_once_in_their_order() -> None:
    (one,) = length_buckets([7] * 50)
    assert one.tolist() == list(range(50))
