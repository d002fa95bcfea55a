"""Interface between search and graph: operations of a model during generation.

Search (greedy, sampling, beams, choice) knows nothing of caches, prompts or families. A backbone
knows nothing of search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.placement import Layout
from mpt_edge.inference.runtime.kv_cache import PromptCache
from mpt_edge.inference.text import Batch


class Decoding(Protocol):
    """A batch of rows during generation, each at its own position in its own text."""

    @property
    def rows(self) -> int:
        """Current number of rows."""

    def extend(self, tokens: Ids, mask: Ids) -> Floats:
        """Append tokens to every row and return the logits after each.

        Args:
            tokens: ``(rows, n)``, padded on the right.
            mask: 1 for tokens, 0 for padding, ``(rows, n)``.

        Returns:
            Logits ``(rows, n, vocabulary)``; those after padding mean nothing.
        """

    def step(self, tokens: Ids) -> Floats:
        """Append one token to every row and return the logits of the next.

        Args:
            tokens: ``(rows,)``.

        Returns:
            Logits ``(rows, vocabulary)``; the next step may overwrite them.
        """
        column = tokens[:, None]
        return self.extend(column, np.ones_like(column))[:, 0]

    def select(self, rows: Ids) -> None:
        """Keep, repeat or reorder rows by index, ``(new rows,)``: for beams, finished rows, or a row per label."""


class OnnxGenerator(Protocol):
    """A frozen generative model of any family; safe under several threads.

    Attributes:
        no_past: the cache of no prompt.
        is_encoder_decoder: whether new tokens take no positions from the input text.
    """

    no_past: PromptCache
    is_encoder_decoder: bool

    def prompt_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of a prompt of ``length`` virtual tokens."""

    def encode_prompt(self, prompt: Floats, layout: Layout = Layout.PREFIX) -> PromptCache:
        """Return the cached keys and values of a prompt ``(l, d)`` or ``(l, layers, d)``."""

    def open(self, batch: Batch, caches: Sequence[PromptCache], held: Sequence[int] = ()) -> tuple[Decoding, Floats]:
        """Read texts, each under its own prompt, or all under one.

        Args:
            batch: the tokens.
            caches: a prompt for each row, or one for all.
            held: how many of each text's first tokens its cache holds, and the batch does not; empty for none.

        Returns:
            The state from which each row continues, and the logits of its first new token, ``(rows, vocabulary)``;
            the next step may overwrite them.
        """

    def decoder_prefix(self, ids: list[int]) -> list[int]:
        """Return the tokens that the generated text follows, for the input ``ids``."""
