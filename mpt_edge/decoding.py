"""The seam between search and graph: what a model under generation must be able to do.

Search (greedy, sampling, beams, choice) knows nothing of caches, prompts or families; a backbone
knows nothing of search.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Decoding(Protocol):
    """A batch of rows under generation, each at its own place in its own text."""

    @property
    def rows(self) -> int:
        """How many rows there are now."""

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row and return what comes next.

        Args:
            tokens: ``(rows, n)``, filled up on the right.
            mask: 1 for tokens, 0 for filling, ``(rows, n)``.

        Returns:
            Logits behind each token, ``(rows, n, vocabulary)``; behind filling they mean nothing.
        """

    def step(self, tokens: Ids) -> Floats:
        """Append one token to every row and return what comes next.

        Args:
            tokens: ``(rows,)``.

        Returns:
            Logits, ``(rows, vocabulary)``; the next step may write over them.
        """
        column = tokens[:, None]
        return self.extend(column, np.ones_like(column))[:, 0]

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows by index, ``(new rows,)``: beams, finished rows, a row a label."""
