"""Greedy search and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.inference.generation.tokens import penalize, pick
from mpt_edge.inference.runtime.decoding import Decoding


@dataclass
class GeneratedRow:
    """One text during generation."""

    stream: TextStream
    options: GenerationOptions
    history: list[int] = field(default_factory=list)
    """Tokens before it, for the repetition penalty."""
    finish: str | None = None
    """Reason for its end: ``"eos"``, ``"stop"`` or ``"length"``; None while it continues."""
    rng: np.random.Generator = field(init=False)
    """Random numbers of this row alone, whatever its batch."""

    def __post_init__(self) -> None:
        """Seed the row's random numbers."""
        self.rng = np.random.default_rng(self.options.seed)

    def take(self, scores: Floats, eos: Sequence[int]) -> tuple[int, str]:
        """Choose the next token, and return it with the text that it completes."""
        tokens = self.stream.tokens
        scores = penalize(scores, [*self.history, *tokens], self.options, eos, len(tokens))
        token = pick(scores, self.options, self.rng)
        if token in eos:
            piece = self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "eos"
            return token, piece
        piece = self.stream.push(token)
        if self.stream.stopped:
            self.finish = "stop"
        elif len(tokens) >= self.options.max_new_tokens:
            piece += self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "length"
        return token, piece


def generate(
    decoding: Decoding, logits: Floats, rows: Sequence[GeneratedRow], eos: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Generate all rows to their ends; a finished row leaves the batch and costs nothing more.

    Args:
        decoding: the model after the rows' inputs.
        logits: logits of each row's first token, ``(rows, vocabulary)``.
        rows: the rows, which collect their tokens.
        eos: tokens that end a text.

    Yields:
        The index of a row, and the text that it gained.
    """
    alive = list(range(len(rows)))
    while alive:
        tokens = []
        for position, number in enumerate(alive):
            token, piece = rows[number].take(logits[position], eos)
            tokens.append(token)
            if piece:
                yield number, piece
        kept = [position for position, number in enumerate(alive) if rows[number].finish is None]
        if len(kept) < len(alive):
            alive = [alive[position] for position in kept]
            if not alive:
                return
            decoding.select(np.array(kept, np.int64))
        logits = decoding.step(np.array([tokens[position] for position in kept], np.int64))
