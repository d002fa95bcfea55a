"""The seam between search and graph: what a model under generation must be able to do.

Search (greedy, sampling, beams, choice) knows nothing of caches, prompts or families; a backbone
knows nothing of search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.prompts import Layout
from mpt_edge.inference.runtime.prompt_cache import PromptCache
from mpt_edge.inference.text import Batch


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


class OnnxGenerator(Protocol):
    """A frozen model that generates, whatever its family; safe under several threads.

    Attributes:
        no_past: what stands for the cache of a prompt where there is none.
        is_encoder_decoder: whether new tokens stand in a row of their own, and take no room from the text.
    """

    no_past: PromptCache
    is_encoder_decoder: bool

    def prompt_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of a prompt of ``length`` rows."""

    def encode_prompt(self, prompt: Floats, layout: Layout = Layout.PREFIX) -> PromptCache:
        """Return what is read once of a prompt ``(l, d)`` or ``(l, layers, d)``."""

    def open(self, batch: Batch, caches: Sequence[PromptCache]) -> tuple[Decoding, Floats]:
        """Read texts, each under its own prompt, or all under one.

        Returns:
            The state from which each row goes on, and the logits of its first new token, ``(rows, vocabulary)``;
            the next step may write over them.
        """

    def front(self, ids: list[int]) -> list[int]:
        """Return the tokens that a text written for the input ``ids`` stands behind."""
