"""Beam search, as transformers' ``generate`` does it without sampling.

Several texts of a row are followed side by side. A complete one is kept with its log-likelihood
divided by a power of its length, and a row ends when no text under way can beat the kept ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.tokens import penalized
from mpt_edge.inference.numerics import log_softmax
from mpt_edge.inference.runtime.decoding import Decoding

_NEVER = -1e9


@dataclass
class BeamRow:
    """One row: its texts under way, and those that are complete.

    Attributes:
        options: what its request says.
        history: tokens in front of it, for the repetition penalty.
        stops: whether a text, in tokens, has come to a stop text.
        running: tokens of the texts under way.
        scores: their log-likelihoods, ``(beams,)``.
        complete: complete texts with their scores, best first, at most ``num_beams``.
        done: whether the row has ended.
    """

    options: GenerationOptions
    history: list[int] = field(default_factory=list)
    stops: Callable[[list[int]], bool] = lambda _: False
    running: list[list[int]] = field(default_factory=list)
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    complete: list[tuple[float, list[int], str]] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        """Begin with one text and beams that cannot win."""
        beams = self.options.num_beams
        self.running = [[] for _ in range(beams)]
        self.scores = np.full(beams, _NEVER)
        self.scores[0] = 0.0

    @property
    def best(self) -> tuple[list[int], str]:
        """The tokens of the best text, without an end token, and why it ended, as in `Row.finish`."""
        _, tokens, why = max(self.complete, key=lambda found: found[0])
        return tokens[:-1] if why == "eos" else tokens, why

    def step(self, logits: Floats, eos: Sequence[int]) -> tuple[list[int], list[int]]:
        """Go on by one token.

        Args:
            logits: behind each text under way, ``(beams, vocabulary)``.
            eos: tokens that end a text.

        Returns:
            For each text that goes on: which text it continues, and its new token.
        """
        beams, new = self.options.num_beams, len(self.running[0])
        chances = log_softmax(logits).astype(np.float32)
        given = [
            penalized(c, [*self.history, *t], self.options, eos, new)
            for c, t in zip(chances, self.running, strict=True)
        ]
        summed = (np.stack(given).astype(np.float64) + self.scores[:, None]).ravel()
        wanted = min(max(2, 1 + len(eos)) * beams, len(summed))
        top = np.argpartition(-summed, wanted - 1)[:wanted]
        top = top[np.argsort(-summed[top], kind="stable")]
        origins, tokens = np.divmod(top, logits.shape[1])
        texts = [[*self.running[origin], int(token)] for origin, token in zip(origins, tokens, strict=True)]
        ends = ["eos" if text[-1] in eos else "stop" if self.stops(text) else "" for text in texts]
        last = new + 1 == self.options.max_new_tokens
        self._keep(texts, summed[top], [why or ("length" if last else "") for why in ends])
        going = [i for i in range(wanted) if not ends[i]][:beams]
        # Where more texts than there is room for come to a stop text at once, some go on without a chance to win.
        going += [i for i in range(wanted) if ends[i]][: beams - len(going)]
        self.running, previous = [texts[i] for i in going], [int(origins[i]) for i in going]
        self.scores = np.where([bool(ends[i]) for i in going], _NEVER, summed[top[going]])
        self.done = last or self._cannot_improve(new + 1)
        return previous, [text[-1] for text in self.running]

    def _keep(self, texts: Sequence[list[int]], scores: NDArray[np.float64], ends: Sequence[str]) -> None:
        """Keep what is complete among the best ``num_beams`` continuations, best first."""
        beams = self.options.num_beams
        length = len(self.running[0]) + 1
        for text, score, why in list(zip(texts, scores, ends, strict=True))[:beams]:
            if why:
                self.complete.append((float(score) / length**self.options.length_penalty, text, why))
        self.complete = sorted(self.complete, key=lambda found: -found[0])[:beams]

    def _cannot_improve(self, length: int) -> bool:
        if len(self.complete) < self.options.num_beams:
            return False
        if self.options.early_stopping is True:
            return True
        if self.options.early_stopping == "never" and self.options.length_penalty > 0:
            length = self.options.max_new_tokens  # the length at which a text under way would score best
        return bool(self.scores[0] / length**self.options.length_penalty <= self.complete[-1][0])


def beam_search(decoding: Decoding, logits: Floats, rows: Sequence[BeamRow], eos: Sequence[int]) -> None:
    """Follow all rows to their ends.

    Args:
        decoding: the model, behind the rows' inputs, each there once.
        logits: of each row's first token, ``(rows, vocabulary)``.
        rows: the rows, which take up their texts; all with the same ``num_beams``.
        eos: tokens that end a text.
    """
    beams = rows[0].options.num_beams
    places = np.repeat(np.arange(len(rows)), beams)
    decoding.select(places)
    logits = logits[places]
    alive = list(range(len(rows)))
    while alive:
        origins, tokens, kept = [], [], []
        for place, number in enumerate(alive):
            previous, chosen = rows[number].step(logits[place * beams : (place + 1) * beams], eos)
            if not rows[number].done:
                kept.append(number)
                origins += [place * beams + i for i in previous]
                tokens += chosen
        if not kept:
            return
        alive = kept
        decoding.select(np.array(origins, np.int64))
        logits = decoding.step(np.array(tokens, np.int64))
