"""Label vectors in training: computed with as files round them, changed as if nothing was rounded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mpt_edge.formats.label_vectors import LabelVectors

#: Learning rate of a bias beside that of a vector's numbers. It has one as its input, and they have numbers near 0.05.
_BIAS_RATE = 0.25


class QuantizedLabels(nn.Module):
    """One trained vector and one bias a label.

    Attributes:
        vectors: the vectors before rounding, ``(labels, d)``.
        biases: the biases before rounding, ``(labels,)``; they start at zero.
        levels: levels of a number in the file.
    """

    def __init__(self, vectors: Tensor, levels: int) -> None:
        """Start from vectors ``(labels, d)``."""
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone().float())
        self.biases = nn.Parameter(torch.zeros(len(vectors)))
        self.levels = levels

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the scores ``(texts, labels)`` of unit embeddings ``(texts, d)``."""
        vectors, biases = self.values()
        return embeddings @ vectors.T + biases

    def values(self) -> tuple[Tensor, Tensor]:
        """Return rounded vectors and biases, with the gradient of those before (straight-through estimator)."""
        vectors, biases = self._centered()
        stored = self.rounded()
        rounded = torch.from_numpy(stored.dequantize(vectors.shape[1])).to(vectors.device)
        half = torch.from_numpy(stored.biases.astype(np.float32)).to(vectors.device)
        return vectors + (rounded - vectors).detach(), biases + (half - biases).detach()

    def rounded(self) -> LabelVectors:
        """Return vectors and biases as the task file has them."""
        vectors, biases = (each.detach().cpu().numpy().astype(np.float32) for each in self._centered())
        return LabelVectors.quantize(vectors, biases, self.levels)

    def groups(self, rate: float, decay: float) -> list[dict[str, object]]:
        """Return the parameters with their learning rates for an optimizer; biases have no weight decay."""
        return [
            {"params": [self.vectors], "lr": rate, "weight_decay": decay},
            {"params": [self.biases], "lr": _BIAS_RATE * rate},
        ]

    def _centered(self) -> tuple[Tensor, Tensor]:
        """Subtract the mean of all labels, on which no choice depends, so that the levels are left to the rest."""
        return self.vectors - self.vectors.mean(0), self.biases - self.biases.mean()
