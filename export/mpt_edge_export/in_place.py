"""Caches with spare capacity, to which new keys and values are written in place.

A cache that grows by concatenation is copied whole at every step. ONNX's ``TensorScatter``
(operator set 24) writes into the array that it is given, where input and output share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir
import torch
from onnxscript.version_converter import convert_version
from torch import Tensor

from mpt_edge.training.backbones.attention import Cache, KeyValue

#: Domain of ``TensorScatter`` while the rest of a graph is of an earlier operator set.
_DOMAIN = "mpt_edge"

#: First operator set with ``TensorScatter``.
_OPSET = 24


class InPlaceCache(Cache):
    """A cache of fixed capacity. It is made only to be exported and computes nothing."""

    def __init__(self, pairs: Sequence[KeyValue], past_length: Tensor) -> None:
        """Wrap each layer's keys and values.

        Args:
            pairs: arrays ``(batch, heads, capacity, head size)`` of each layer.
            past_length: number of rows in use, shape ``(1,)``.
        """
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
        """Write a layer's new keys and values after the others, and return both arrays at full capacity."""
        layer = self.layers[layer_idx]
        layer.keys = self._scatter(layer.keys, key_states)
        layer.values = self._scatter(layer.values, value_states)
        return layer.keys, layer.values

    def places(self, mask: Tensor, rows: int) -> Tensor:
        """Return the positions of the next ``rows`` rows, after those in use."""
        return self._past_length + torch.arange(rows, device=mask.device)

    def _scatter(self, past: Tensor, new: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            f"{_DOMAIN}::TensorScatter",
            (past, new, self._indices),
            {"axis": -2, "mode": "linear"},
            dtype=past.dtype,
            shape=past.shape,
            version=1,
        )


def scatter_in_place(model: onnx_ir.Model) -> None:
    """Turn the exported writes of an `InPlaceCache` into ONNX nodes, and raise the graph to their operator set."""
    writes = [node for node in model.graph if node.domain == _DOMAIN]
    if not writes:
        return
    for node in writes:
        node.domain, node.version = "", _OPSET
    del model.opset_imports[_DOMAIN]
    convert_version(model, _OPSET)
