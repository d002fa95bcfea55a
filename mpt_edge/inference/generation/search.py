"""Greedy search and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.constraints import Follower
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
    follower: Follower | None = None
    """The constraint on its text."""
    first_at: float = 0.0
    """Time of its first token, on the clock of `time.perf_counter`."""
    ended_at: float = 0.0
    """Time of its end."""
    rng: np.random.Generator = field(init=False)
    """Random numbers of this row alone, whatever its batch."""

    def __post_init__(self) -> None:
        """Seed the row's random numbers."""
        self.rng = np.random.default_rng(self.options.seed)

    def take(self, scores: Floats, eos: Sequence[int]) -> tuple[int, str]:
        """Choose the next token, and return it with the text that it completes."""
        tokens = self.stream.tokens
        scores = penalize(scores, [*self.history, *tokens], self.options, eos, len(tokens))
        if self.follower is not None:
            scores = self.follower.restrict(scores, eos)
        token = pick(scores, self.options, self.rng)
        if token in eos:
            piece = self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "eos"
        else:
            piece = self._push(token)
        now = perf_counter()
        self.first_at = self.first_at or now
        self.ended_at = now
        return token, piece

    def _push(self, token: int) -> str:
        """Add a token that does not end the text, and return the text that it completes."""
        piece = self.stream.push(token)
        if self.follower is not None:
            self.follower.advance(token)
        is_last = len(self.stream.tokens) >= self.options.max_new_tokens
        if self.stream.stopped:
            self.finish = "stop"
        elif self.follower is not None and (self.follower.is_over or (is_last and self.follower.is_complete)):
            piece += self.stream.finish()
            self.finish = "eos"  # as if an end token had come
        elif is_last:
            piece += self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "length"
        return piece

    def trim(self, text: str) -> str:
        """Return a text, or its first piece, without the space that models write in front of it."""
        return text.lstrip() if self.follower is None else self.follower.trim(text)


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
