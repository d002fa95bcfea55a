"""A key/value cache for decoding: new positions are written in place, and finished texts leave it.

transformers' own cache is copied whole at every step, and whenever a text of its batch ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from mpt_edge._arrays import Floats, Ids
from mpt_edge.training.backbones.attention import Cache, KeyValue

#: Positions by which a cache grows.
BLOCK = 64


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, in arrays with spare positions."""

    def __init__(self, batch: int, pair: KeyValue | None = None) -> None:
        """Start with a pair of batch one or ``batch``, or with nothing."""
        super().__init__()
        self.rows = batch
        self.length = 0
        self._arrays: KeyValue | None = None
        if pair is not None:
            self._append(pair)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> KeyValue:
        """Write new keys and values after the others, and return all of them."""
        self._append((key_states, value_states))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of positions in use."""
        return self.length

    def select(self, rows: Tensor) -> None:
        """Gather rows by index into new arrays."""
        self.rows = len(rows)
        if self._arrays is not None:
            keys, values = (array[rows.to(array.device)] for array in self._arrays)
            self._arrays = keys, values
            self._view()

    def drop(self, count: int, targets: Tensor, sources: Tensor) -> None:
        """Keep the first ``count`` rows, after rows ``sources`` were moved to ``targets``."""
        self.rows = count
        if self._arrays is not None:
            for array in self._arrays:
                array[targets, :, : self.length] = array[sources, :, : self.length]
            keys, values = (array[:count] for array in self._arrays)
            self._arrays = keys, values
            self._view()

    def _append(self, pair: KeyValue) -> None:
        end = self.length + pair[0].shape[2]
        if self._arrays is None or end > self._arrays[0].shape[2]:
            self._grow(pair, end)
        assert self._arrays is not None
        for array, new in zip(self._arrays, pair, strict=True):
            array[:, :, self.length : end] = new
        self.length = end
        self._view()

    def _grow(self, pair: KeyValue, end: int) -> None:
        """Move to arrays with room for ``end`` positions."""
        capacity = -(-end // BLOCK) * BLOCK
        shapes = [(self.rows, part.shape[1], capacity, part.shape[3]) for part in pair]
        keys, values = (part.new_empty(shape) for part, shape in zip(pair, shapes, strict=True))
        if self._arrays is not None:
            for array, before in zip((keys, values), self._arrays, strict=True):
                array[:, :, : self.length] = before[:, :, : self.length]
        self._arrays = keys, values

    def _view(self) -> None:
        assert self._arrays is not None
        self.keys, self.values = (array[:, :, : self.length] for array in self._arrays)
        self.is_initialized = True


class GrowingCache(Cache):
    """Keys and values of texts that are being continued.

    Attributes:
        order: for each text, the row of the arrays that has it.
    """

    def __init__(self, pairs: Sequence[KeyValue] | None, batch: int) -> None:
        """Start after a prompt, or after nothing; see `Cache`."""
        super().__init__(None, batch)
        self.order = np.arange(batch)
        self.layers = [_Layer(batch, pair) for pair in pairs or ()]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object) -> KeyValue:
        """Write a layer's new keys and values in place, and return all of them."""
        if layer_idx == len(self.layers):
            self.layers.append(_Layer(len(self.order)))
        result: KeyValue = self.layers[layer_idx].update(key_states, value_states)
        return result

    def arrange(self, values: Ids) -> Tensor:
        """Return values of each text in the order of the arrays' rows."""
        return torch.from_numpy(values[np.argsort(self.order)])

    def rearrange(self, values: Tensor) -> Floats:
        """Return values of each row, such as logits, in the order of the texts."""
        result: Floats = values.float().cpu().numpy()
        return result if (self.order == np.arange(len(self.order))).all() else result[self.order]

    def select(self, rows: Ids, others: Sequence[Tensor]) -> list[Tensor]:
        """Keep, repeat or reorder texts by index, ``(new texts,)``.

        Texts that only leave are overwritten by the last ones. So a step in which one ends copies one row.

        Args:
            rows: indices of the texts that stay.
            others: tensors whose first axis is in the order of the arrays' rows.

        Returns:
            The other tensors, for the rows that stay.
        """
        kept, count = self.order[rows], len(rows)
        if count > len(self.order) or len(np.unique(kept)) < count:
            chosen = torch.from_numpy(kept)
            for layer in self.layers:
                layer.select(chosen)
            self.order = np.arange(count)
            return [other[chosen.to(other.device)] for other in others]
        holes = np.setdiff1d(np.arange(count), kept)
        moved = kept[kept >= count]
        targets, sources = torch.from_numpy(holes), torch.from_numpy(moved)
        for layer in self.layers:
            layer.drop(count, targets, sources)
        self.order = kept.copy()
        self.order[kept >= count] = holes
        place = torch.arange(count)
        place[targets] = sources
        return [other[place.to(other.device)] for other in others]
