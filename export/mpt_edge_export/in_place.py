"""Caches with room: new keys and values are written behind the old ones, in place.

A cache that grows by concatenation is copied at every step, as a whole. ONNX's ``TensorScatter``
(operator set 24) writes into the array that it is given, where input and output are bound to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir
import torch
from onnxscript.version_converter import convert_version
from torch import Tensor

from mpt_edge.training.backbones.attention import Cache, KeyValue

#: Where ``TensorScatter`` stands while the rest of a graph is of an earlier operator set.
_DOMAIN = "mpt_edge"

#: The first set with ``TensorScatter``.
_OPSET = 24


class InPlaceCache(Cache):
    """What was read before, with room behind it; made only to be exported, it computes nothing."""

    def __init__(self, pairs: Sequence[KeyValue], past_length: Tensor) -> None:
        """Take arrays ``(batch, heads, capacity, head size)`` of which ``past_length`` rows, ``(1,)``, are taken."""
        batch = pairs[0][0].shape[0]
        super().__init__(pairs, batch)
        self._past_length, self._indices = past_length, past_length.expand(batch)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values behind the others, and return all with the room that is left."""
        layer = self.layers[layer_idx]
        layer.keys = self._written(layer.keys, key_states)
        layer.values = self._written(layer.values, value_states)
        return layer.keys, layer.values

    def places(self, mask: Tensor, rows: int) -> Tensor:
        """Return where the next ``rows`` rows stand: behind those that are taken."""
        return self._past_length + torch.arange(rows, device=mask.device)

    def _written(self, past: Tensor, new: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            f"{_DOMAIN}::TensorScatter",
            (past, new, self._indices),
            {"axis": -2, "mode": "linear"},
            dtype=past.dtype,
            shape=past.shape,
            version=1,
        )


def scatter_in_place(model: onnx_ir.Model) -> None:
    """Make the exported writes of a `InPlaceCache` nodes of ONNX, and raise the graph to the set that has them."""
    written = [node for node in model.graph if node.domain == _DOMAIN]
    if not written:
        return
    for node in written:
        node.domain, node.version = "", _OPSET
    del model.opset_imports[_DOMAIN]
    convert_version(model, _OPSET)
