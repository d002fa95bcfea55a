"""The bias that hides keys, in the narrowest type that scores come in."""

from __future__ import annotations

import pytest
import torch

from mpt_edge.training.backbones.attention import visibility_bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_hidden_keys_get_no_weight_and_a_row_of_them_no_nan(dtype: torch.dtype) -> None:
    visible = torch.tensor([[True, False, True], [False, False, False]])
    bias = visibility_bias(visible, dtype)
    assert bias.dtype == dtype
    weights = torch.softmax(torch.full((2, 3), 5.0, dtype=dtype) + bias, dim=-1)
    assert weights[0].tolist() == [0.5, 0, 0.5]
    torch.testing.assert_close(weights[1].float(), torch.full((3,), 1 / 3), atol=2e-3, rtol=0)
