"""Beam search, as transformers' ``generate`` does it without sampling.

A row keeps several unfinished texts. A complete one is kept with its log-likelihood divided by a
power of its length. The row ends when no unfinished text can beat the complete ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.constraints import Follower
from mpt_edge.inference.generation.tokens import penalize
from mpt_edge.inference.numerics import log_softmax
from mpt_edge.inference.runtime.decoding import Decoding

_NEVER = -1e9


@dataclass
class BeamRow:
    """One row: its unfinished texts, and its complete ones."""

    options: GenerationOptions
    history: list[int] = field(default_factory=list)
    """Tokens before it, for the repetition penalty."""
    stops: Callable[[list[int]], bool] = lambda _: False
    """Whether the last token of a text completes a stop text."""
    running: list[list[int]] = field(default_factory=list)
    """Tokens of the unfinished texts."""
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Their log-likelihoods, ``(beams,)``."""
    complete: list[tuple[float, list[int], str]] = field(default_factory=list)
    """Score, tokens and finish of up to ``num_beams`` complete texts, best first."""
    done: bool = False
    follower: Follower | None = None
    """The constraint on a new text."""
    first_at: float = 0.0
    """Time of the first tokens, on the clock of `time.perf_counter`."""
    ended_at: float = 0.0
    """Time of the last ones."""
    followers: list[Follower | None] = field(default_factory=list)
    """Constraint on each unfinished text; None for one that cannot go on, and without a constraint."""

    def __post_init__(self) -> None:
        """Start with one text, and beams that cannot win."""
        beams = self.options.num_beams
        self.followers = [self.follower] * beams
        self.running = [[] for _ in range(beams)]
        self.scores = np.full(beams, _NEVER)
        self.scores[0] = 0.0

    @property
    def best(self) -> tuple[list[int], str]:
        """The tokens of the best text, without an end token, and its `GeneratedRow.finish`."""
        _, tokens, why = max(self.complete, key=lambda item: item[0])
        return tokens[:-1] if why == "eos" else tokens, why

    def step(self, logits: Floats, eos: Sequence[int]) -> tuple[list[int], list[int]]:
        """Extend every unfinished text by one token.

        Args:
            logits: logits after each unfinished text, ``(beams, vocabulary)``.
            eos: tokens that end a text.

        Returns:
            For each text that continues: the index of its origin, and its new token.
        """
        beams, new = self.options.num_beams, len(self.running[0])
        log_probs = log_softmax(logits).astype(np.float32)
        adjusted = [
            self._restrict(i, penalize(row, [*self.history, *text], self.options, eos, new), eos)
            for i, (row, text) in enumerate(zip(log_probs, self.running, strict=True))
        ]
        summed = (np.stack(adjusted).astype(np.float64) + self.scores[:, None]).ravel()
        count = min(max(2, 1 + len(eos)) * beams, len(summed))
        top = np.argpartition(-summed, count - 1)[:count]
        top = top[np.argsort(-summed[top], kind="stable")]
        origins, tokens = np.divmod(top, logits.shape[1])
        texts = [[*self.running[origin], int(token)] for origin, token in zip(origins, tokens, strict=True)]
        ends = ["eos" if text[-1] in eos else "stop" if self.stops(text) else "" for text in texts]
        last = new + 1 == self.options.max_new_tokens
        followers = self._follow(origins, texts, summed[top], ends)
        ends = [
            "complete" if each is not None and each.is_over and not eos else why
            for each, why in zip(followers, ends, strict=True)
        ]
        at_last = ["complete" if each is not None and each.is_complete else "length" for each in followers]
        self._keep(
            texts, summed[top], [why or (limit if last else "") for why, limit in zip(ends, at_last, strict=True)]
        )
        going = [i for i in range(count) if not ends[i]][:beams]
        # If more texts stop at once than there are beams, some continue and cannot win.
        going += [i for i in range(count) if ends[i]][: beams - len(going)]
        self.running, previous = [texts[i] for i in going], [int(origins[i]) for i in going]
        self.scores = np.where([bool(ends[i]) for i in going], _NEVER, summed[top[going]])
        self.followers = [followers[i] for i in going]
        self.ended_at = perf_counter()
        self.first_at = self.first_at or self.ended_at
        self.done = last or self._cannot_improve(new + 1) or not np.isfinite(self.scores).any()
        return previous, [text[-1] for text in self.running]

    def _restrict(self, beam: int, scores: Floats, eos: Sequence[int]) -> Floats:
        """Leave only tokens with which a text may go on."""
        if self.follower is None:
            return scores
        follower = self.followers[beam]
        return np.full_like(scores, -np.inf) if follower is None else follower.restrict(scores, eos)

    def _follow(
        self,
        origins: NDArray[np.int64],
        texts: Sequence[list[int]],
        scores: NDArray[np.float64],
        ends: Sequence[str],
    ) -> list[Follower | None]:
        """Return the constraint after the last token of each text; None for one that cannot go on."""
        result: list[Follower | None] = []
        for origin, text, score, why in zip(origins, texts, scores, ends, strict=True):
            follower = self.followers[origin]
            if follower is not None:
                follower = None if why or not np.isfinite(score) else follower.copy()
            if follower is not None:
                follower.advance(text[-1])
            result.append(follower)
        return result

    def _keep(self, texts: Sequence[list[int]], scores: NDArray[np.float64], ends: Sequence[str]) -> None:
        """Keep the complete texts among the best ``num_beams`` continuations, best first."""
        beams = self.options.num_beams
        length = len(self.running[0]) + 1
        for text, score, why in list(zip(texts, scores, ends, strict=True))[:beams]:
            if why and np.isfinite(score):
                self.complete.append((float(score) / length**self.options.length_penalty, text, why))
        self.complete = sorted(self.complete, key=lambda item: -item[0])[:beams]

    def _cannot_improve(self, length: int) -> bool:
        if len(self.complete) < self.options.num_beams:
            return False
        if self.options.early_stopping is True:
            return True
        if self.options.early_stopping == "never" and self.options.length_penalty > 0:
            length = self.options.max_new_tokens  # the length at which an unfinished text would score best
        return bool(self.scores[0] / length**self.options.length_penalty <= self.complete[-1][0])


def beam_search(decoding: Decoding, logits: Floats, rows: Sequence[BeamRow], eos: Sequence[int]) -> None:
    """Extend all rows to their ends.

    Args:
        decoding: the model after the rows' inputs, one row each.
        logits: logits of each row's first token, ``(rows, vocabulary)``.
        rows: the rows, which collect their texts; all with the same ``num_beams``.
        eos: tokens that end a text.
    """
    beams = rows[0].options.num_beams
    repeated = np.repeat(np.arange(len(rows)), beams)
    decoding.select(repeated)
    logits = logits[repeated]
    alive = list(range(len(rows)))
    while alive:
        origins, tokens, kept = [], [], []
        for position, number in enumerate(alive):
            previous, chosen = rows[number].step(logits[position * beams : (position + 1) * beams], eos)
            if not rows[number].done:
                kept.append(number)
                origins += [position * beams + i for i in previous]
                tokens += chosen
        if not kept:
            return
        alive = kept
        decoding.select(np.array(origins, np.int64))
        logits = decoding.step(np.array(tokens, np.int64))
