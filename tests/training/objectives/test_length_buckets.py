"""Length buckets against all splits there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mpt_edge.inference.batching import length_buckets


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
