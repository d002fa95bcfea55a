"""Writing one token after the other: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.inference.generation.tokens import penalized, pick
from mpt_edge.inference.runtime.decoding import Decoding


@dataclass
class Row:
    """One text under way.

    Attributes:
        stream: its text so far.
        options: what its request says.
        history: tokens in front of it, for the repetition penalty.
        finish: why it ended: ``"eos"``, ``"stop"`` or ``"length"``; empty while it goes on.
        rng: draws its tokens, whatever batch it is in.
    """

    stream: TextStream
    options: GenerationOptions
    history: list[int] = field(default_factory=list)
    finish: str = ""
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Seed the row's own stream of random numbers."""
        self.rng = np.random.default_rng(self.options.seed)

    def take(self, scores: Floats, eos: Sequence[int]) -> tuple[int, str]:
        """Choose the next token by its scores, and return it with the text that it completes."""
        written = self.stream.tokens
        scores = penalized(scores, [*self.history, *written], self.options, eos, len(written))
        token = pick(scores, self.options, self.rng)
        if token in eos:
            piece = self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "eos"
            return token, piece
        piece = self.stream.push(token)
        if self.stream.stopped:
            self.finish = "stop"
        elif len(written) >= self.options.max_new_tokens:
            piece += self.stream.finish()
            self.finish = "stop" if self.stream.stopped else "length"
        return token, piece


def generate(decoding: Decoding, logits: Floats, rows: Sequence[Row], eos: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Write all rows to their ends; a row that is done leaves the batch and costs nothing more.

    Args:
        decoding: the model, behind the rows' inputs.
        logits: of each row's first token, ``(rows, vocabulary)``.
        rows: the texts, which take up their tokens.
        eos: tokens that end a text.

    Yields:
        The number of a row, and text that it went on by.
    """
    alive = list(range(len(rows)))
    while alive:
        tokens = []
        for place, number in enumerate(alive):
            token, piece = rows[number].take(logits[place], eos)
            tokens.append(token)
            if piece:
                yield number, piece
        kept = [place for place, number in enumerate(alive) if not rows[number].finish]
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            if not alive:
                return
            decoding.select(np.array(kept, np.int64))
        logits = decoding.step(np.array([tokens[place] for place in kept], np.int64))
