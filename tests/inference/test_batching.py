"""Batches of rows of similar length: every row once, within both limits, and none smaller than it must be."""

from __future__ import annotations

import numpy as np
import pytest

from mpt_edge.inference.batching import by_length


@pytest.mark.parametrize("seed", range(50))
def test_batches_are_within_their_limits_and_full(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, rng.integers(0, 40)).tolist()
    rows, tokens = int(rng.integers(1, 9)), int(rng.integers(1, 120))
    batches = list(by_length(lengths, rows, tokens))
    order = [place for batch in batches for place in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[place] for place in order] == sorted(lengths)
    for batch, following in zip(batches, [*batches[1:], None], strict=False):
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or (len(batch) <= rows and len(batch) * longest <= tokens)
        if following is not None:  # its first row did not fit any more
            assert len(batch) == rows or (len(batch) + 1) * lengths[following[0]] > tokens
