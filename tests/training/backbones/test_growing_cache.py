"""A cache that is written in place, against plain concatenation and indexing."""

from __future__ import annotations

import numpy as np
import torch

from mpt_edge.training.backbones.growing_cache import BLOCK, GrowingCache


def pair(batch: int, positions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, 2, positions, 4, generator=generator) for _ in range(2))
    return keys, values


def test_new_positions_follow_the_prompt_of_all_rows() -> None:
    prompt, new = pair(1, 3, 0), pair(2, 5, 1)
    cache = GrowingCache([prompt], 2)
    keys, values = cache.update(*new, 0)
    assert torch.equal(keys, torch.cat([prompt[0].expand(2, -1, -1, -1), new[0]], 2))
    assert torch.equal(values, torch.cat([prompt[1].expand(2, -1, -1, -1), new[1]], 2))
    assert cache.get_seq_length() == 8
    assert torch.equal(cache.pairs()[0][0], keys)


def test_steps_write_into_the_same_arrays_until_these_are_full() -> None:
    cache = GrowingCache(None, 2)
    first, _ = cache.update(*pair(2, BLOCK - 2, 0), 0)
    second, _ = cache.update(*pair(2, 1, 1), 0)
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second[:, :, :-1], first)
    third, _ = cache.update(*pair(2, 2, 2), 0)
    assert third.data_ptr() != first.data_ptr()
    assert torch.equal(third[:, :, : BLOCK - 1], second)
    assert third.shape[2] == BLOCK + 1


def selected(rows: list[int], then: list[int]) -> None:
    """Check two selections against indexing, with a step after each."""
    cache = GrowingCache([pair(1, 2, 0)], 5)
    expected, _ = cache.update(*pair(5, 3, 1), 0)
    expected = expected.clone()
    other = torch.arange(5)  # travels along, in the order of the cache's rows
    numbers = np.arange(5)
    for seed, chosen in ((2, rows), (3, then)):
        (other,) = cache.select(np.array(chosen), [other])
        expected, numbers = expected[torch.tensor(chosen)], numbers[chosen]
        assert cache.rearrange(other).tolist() == numbers.tolist()
        new = pair(len(chosen), 1, seed)[0]
        arranged = cache.arrange(new.numpy())
        keys, _ = cache.update(arranged, arranged, 0)
        expected = torch.cat([expected, new], 2)
        assert np.array_equal(cache.rearrange(keys), expected.numpy())


def test_texts_that_leave_cost_no_copy_of_the_others() -> None:
    cache = GrowingCache(None, 4)
    before, _ = cache.update(*pair(4, 3, 0), 0)
    cache.select(np.array([1, 2, 3]), [])
    assert cache.pairs()[0][0].data_ptr() == before.data_ptr()
    assert sorted(cache.order.tolist()) == [0, 1, 2]
    selected([1, 2, 3], [0, 2])
    selected([0, 1, 2, 3], [3])
    selected([4], [0])
    selected([0, 4], [1])


def test_texts_are_repeated_and_reordered() -> None:
    selected([4, 0, 0, 2, 2, 2], [5, 1])
    selected([1, 0], [0, 0, 1])
    selected([3, 2, 1, 0, 4], [0, 1, 2, 3, 4])
