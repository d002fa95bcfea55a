"""Key/value caches, and the bias that masks keys."""

from __future__ import annotations

import pytest
import torch

from mpt_edge.training.backbones.attention import Cache, attend, visibility_bias


def make_pair(batch: int, positions: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, positions, 4), torch.randn(batch, 2, positions, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_masked_keys_get_no_weight_and_a_masked_row_no_nan(dtype: torch.dtype) -> None:
    visible = torch.tensor([[True, False, True], [False, False, False]])
    bias = visibility_bias(visible, dtype)
    assert bias.dtype == dtype
    weights = torch.softmax(torch.full((2, 3), 5.0, dtype=dtype) + bias, dim=-1)
    assert weights[0].tolist() == [0.5, 0, 0.5]
    torch.testing.assert_close(weights[1].float(), torch.full((3,), 1 / 3), atol=2e-3, rtol=0)


def test_a_cache_of_batch_one_serves_the_batch() -> None:
    pair = make_pair(1)
    ((keys, values),) = Cache([pair], 3).pairs()
    assert keys.shape == values.shape == (3, 2, 3, 4)
    assert torch.equal(keys, pair[0].expand(3, -1, -1, -1))


def test_a_cache_of_the_batch_is_taken_as_it_is() -> None:
    pair = make_pair(2)
    ((keys, values),) = Cache([pair], 2).pairs()
    assert torch.equal(keys, pair[0])
    assert torch.equal(values, pair[1])


def test_new_positions_are_appended() -> None:
    pair, new = make_pair(2), make_pair(2, 1)
    cache = Cache([pair], 2)
    keys, values = cache.update(*new, 0)
    assert torch.equal(keys, torch.cat([pair[0], new[0]], 2))
    assert torch.equal(cache.pairs()[0][1], values)
    assert cache.places(torch.ones(2, 6), 2).tolist() == [4, 5]


def test_an_empty_cache() -> None:
    cache = Cache(None, 2)
    assert cache.pairs() == []
    cache.update(*make_pair(2), 0)
    assert len(cache.pairs()) == 1


@pytest.mark.parametrize("has_bias", [True, False])
def test_mixed_precision_attends_in_float32(has_bias: bool) -> None:
    torch.manual_seed(0)
    query, (key, value) = torch.randn(2, 4, 3, 4), make_pair(2)
    bias = visibility_bias(torch.tensor([[[[True, True, False]]]]), torch.float32) if has_bias else None
    expected, _ = attend(None, query, key, value, bias)
    halves = [each.bfloat16() for each in (query, key, value)]
    exact, _ = attend(None, *(each.float() for each in halves), bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended, _ = attend(None, *halves, None if bias is None else bias.bfloat16())
    assert attended.dtype == torch.float32
    torch.testing.assert_close(attended, exact)
    torch.testing.assert_close(attended, expected, atol=0.05, rtol=0.05)
