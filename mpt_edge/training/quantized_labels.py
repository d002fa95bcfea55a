"""Label vectors in training: computed with as files round them, changed as if nothing was rounded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mpt_edge.formats.label_vectors import LabelVectors


class QuantizedLabels(nn.Module):
    """One trained vector a label.

    Attributes:
        vectors: the vectors before rounding, ``(labels, d)``.
        levels: levels of a number in the file.
    """

    def __init__(self, vectors: Tensor, levels: int) -> None:
        """Start from vectors ``(labels, d)``."""
        super().__init__()
        self.vectors = nn.Parameter(vectors.clone().float())
        self.levels = levels

    def forward(self) -> Tensor:
        """Return the rounded vectors, with the gradient of those before rounding (straight-through estimator)."""
        centered = self._centered()
        rounded = torch.from_numpy(self.rounded().dequantize(centered.shape[1])).to(centered.device)
        return centered + (rounded - centered).detach()

    def rounded(self) -> LabelVectors:
        """Return the vectors as the task file has them."""
        return LabelVectors.quantize(self._centered().detach().cpu().numpy().astype(np.float32), self.levels)

    def _centered(self) -> Tensor:
        """Subtract the mean of all labels, on which no choice depends, so that the levels are left to the rest."""
        return self.vectors - self.vectors.mean(0)
