"""Key/value caches and attention masks, as transformers' layers take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

#: Keys and values of one layer, each ``(batch, key/value heads, positions, head size)``.
KeyValue = tuple[Tensor, Tensor]

#: Large and negative, and finite in float16, so that fully masked rows have no NaN.
MASKED = -3e4


class Cache(DynamicCache):  # type: ignore[misc]
    """Keys and values of earlier positions; each layer appends its new ones."""

    def __init__(self, pairs: Sequence[KeyValue] | None, batch: int) -> None:
        """Fill the cache.

        Args:
            pairs: keys and values of each layer, of batch one or ``batch``; None for an empty cache.
            batch: the batch size.
        """
        super().__init__()
        for layer, pair in enumerate(pairs or ()):
            # Pairs of the full batch size are not expanded, which would add copies to an exported graph.
            parts = [part if part.shape[0] == batch else part.expand(batch, -1, -1, -1) for part in pair]
            super().update(*parts, layer)

    def places(self, mask: Tensor, rows: int) -> Tensor:
        """Return the indices of the next ``rows`` positions among those of ``mask``: the last ones.

        Args:
            mask: attention mask, ``(batch, keys)``.
            rows: number of new positions.
        """
        keys = mask.shape[1]
        return torch.arange(keys, device=mask.device)[keys - rows :]

    def pairs(self) -> list[KeyValue]:
        """Return the keys and values of each layer."""
        return [(layer.keys, layer.values) for layer in self.layers]


def visibility_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where ``visible`` is true and `MASKED` elsewhere.

    Args:
        visible: boolean, of any shape.
        dtype: dtype of the result.
    """
    return torch.where(visible, 0.0, MASKED).to(dtype)
