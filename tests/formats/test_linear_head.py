"""Saved heads against the same layers in PyTorch, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.activations import get_activation

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.linear_head import ACTIVATIONS, Head, Layer


def head(activation: str) -> Head:
    rng = np.random.default_rng(0)
    shapes = [((6, 4), activation), ((3, 6), "")]
    values = [(rng.normal(size=shape), rng.normal(size=shape[0]), name) for shape, name in shapes]
    return Head(tuple(Layer(w.astype(np.float32), b.astype(np.float32), name) for w, b, name in values))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_layers_are_pytorchs(activation: str) -> None:
    found, states = head(activation), np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    expected = torch.from_numpy(states)
    for layer in found.layers:
        expected = torch.nn.functional.linear(expected, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias))
        expected = get_activation(layer.activation)(expected) if layer.activation else expected
    assert found(states).dtype == np.float32
    np.testing.assert_allclose(found(states), expected.numpy(), atol=1e-5)


def test_round_trip() -> None:
    given = head("gelu")
    found = Head.parse(given.tensors(), given.activations, 4, "t")
    assert found is not None
    assert (found.outputs, found.activations) == (3, ["gelu", ""])
    assert all(np.array_equal(value, found.tensors()[name]) for name, value in given.tensors().items())
    assert Head.parse({"u": np.ones(3)}, [], 4, "t") is None


@pytest.mark.parametrize(
    ("activations", "width", "gone"),
    [
        (["gelu", "swish"], 4, ""),
        (["gelu", ""], 5, ""),
        (["gelu", ""], 4, "head.1.bias"),
        (["gelu"], 4, ""),
        ([], 4, ""),
        ([["gelu"], ""], 4, ""),
    ],
    ids=["activation", "width", "bias", "more tensors", "no activations", "no name"],
)
def test_heads_that_do_not_hold_together(activations: list, width: int, gone: str) -> None:
    arrays = {name: value for name, value in head("gelu").tensors().items() if name != gone}
    with pytest.raises(CorruptFileError, match=r"^t: .* head .*; import the task again\.$"):
        Head.parse(arrays, activations, width, "t")
