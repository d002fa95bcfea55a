"""A PyTorch model behind the seam that search is written against."""

from __future__ import annotations

import numpy as np
import torch

from mpt_edge.decoding import Floats, Ids
from mpt_edge.training.causal import PromptedCausal


class TorchDecoding:
    """Rows of a decoder-only model without a prompt; filling stays in the cache as masked holes."""

    def __init__(self, model: PromptedCausal, rows: int) -> None:
        self.model, self.rows, self.past = model, rows, None
        self.seen = torch.zeros(rows, 0, dtype=torch.long)

    @torch.no_grad()
    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        assert len(tokens) == self.rows
        new = torch.from_numpy(mask)
        positions = self.seen.sum(1, keepdim=True) + (new.cumsum(1) - 1).clamp(min=0)
        self.seen = torch.cat([self.seen, new], 1)
        hidden, self.past = self.model(torch.from_numpy(tokens), self.seen, positions, past=self.past)
        return self.model.logits(hidden).numpy()

    def select(self, rows: Ids) -> None:
        chosen = torch.from_numpy(rows)
        self.past = [(key[chosen], value[chosen]) for key, value in self.past]
        self.seen, self.rows = self.seen[chosen], len(rows)


def opened(model: PromptedCausal, texts: list[list[int]]) -> tuple[TorchDecoding, Floats]:
    """Read texts of different lengths, and return the state and the logits behind each."""
    decoding = TorchDecoding(model, len(texts))
    longest = max(map(len, texts))
    tokens = np.array([text + [0] * (longest - len(text)) for text in texts])
    mask = np.array([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    logits = decoding.extend(tokens, mask)
    return decoding, logits[np.arange(len(texts)), mask.sum(1) - 1]
