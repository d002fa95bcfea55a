"""Linear heads against the same layers in PyTorch, and refused files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.activations import get_activation

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.linear_head import Activation, LinearHead, LinearLayer


def head(activation: Activation) -> LinearHead:
    rng = np.random.default_rng(0)
    shapes = [((6, 4), activation), ((3, 6), None)]
    values = [(rng.normal(size=shape), rng.normal(size=shape[0]), name) for shape, name in shapes]
    return LinearHead(tuple(LinearLayer(w.astype(np.float32), b.astype(np.float32), name) for w, b, name in values))


@pytest.mark.parametrize("activation", list(Activation))
def test_layers_are_those_of_pytorch(activation: Activation) -> None:
    result, states = head(activation), np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    expected = torch.from_numpy(states)
    for layer in result.layers:
        expected = torch.nn.functional.linear(expected, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias))
        expected = get_activation(layer.activation)(expected) if layer.activation else expected
    assert result(states).dtype == np.float32
    np.testing.assert_allclose(result(states), expected.numpy(), atol=1e-5)


def test_round_trip() -> None:
    given = head(Activation.GELU)
    result = LinearHead.parse(given.tensors(), given.activations, 4, "t")
    assert result is not None
    assert (result.outputs, result.activations) == (3, ["gelu", None])
    assert all(np.array_equal(value, result.tensors()[name]) for name, value in given.tensors().items())
    assert LinearHead.parse({"u": np.ones(3)}, [], 4, "t") is None


@pytest.mark.parametrize(
    ("activations", "width", "gone"),
    [
        (["gelu", "swish"], 4, ""),
        (["gelu", None], 5, ""),
        (["gelu", None], 4, "head.1.bias"),
        (["gelu"], 4, ""),
        ([], 4, ""),
        ([["gelu"], None], 4, ""),
        (["gelu", ""], 4, ""),
    ],
    ids=["activation", "width", "bias", "more tensors", "no activations", "no name", "an empty name"],
)
def test_incomplete_heads(activations: list, width: int, gone: str) -> None:
    arrays = {name: value for name, value in head(Activation.GELU).tensors().items() if name != gone}
    with pytest.raises(CorruptFileError, match=r"^t: .* head .*; import the task again\.$"):
        LinearHead.parse(arrays, activations, width, "t")
