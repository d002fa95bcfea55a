"""Keys and values that were read before, as transformers' layers take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

#: Keys and values of one layer, each ``(batch, key/value heads, rows, head size)``.
KeyValue = tuple[Tensor, Tensor]


class Cache(DynamicCache):  # type: ignore[misc]
    """What was read before; each layer appends what it reads."""

    def __init__(self, pairs: Sequence[KeyValue] | None, batch: int) -> None:
        """Start with keys and values of each layer, batch one or ``batch``; None where nothing was read."""
        super().__init__()
        for layer, pair in enumerate(pairs or ()):
            # Those of the batch's size are left alone, so a graph copies nothing.
            parts = [part if part.shape[0] == batch else part.expand(batch, -1, -1, -1) for part in pair]
            super().update(*parts, layer)

    def places(self, mask: Tensor, rows: int) -> Tensor:
        """Return where the next ``rows`` rows stand among those of ``mask``, ``(batch, keys)``: here the last."""
        keys = mask.shape[1]
        return torch.arange(keys, device=mask.device)[keys - rows :]

    def pairs(self) -> list[KeyValue]:
        """Return each layer's keys and values."""
        return [(layer.keys, layer.values) for layer in self.layers]


#: Large and negative, and finite in float16, so that fully masked rows stay free of NaN.
MASKED = -3e4


def visibility_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where ``visible``, of any shape and boolean, is true, and `MASKED` elsewhere, in ``dtype``."""
    return torch.where(visible, 0.0, MASKED).to(dtype)
