"""The next token: penalties on the logits, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.numerics import log_softmax

Doubles = NDArray[np.float64]


def penalized(
    scores: Floats, history: Sequence[int], options: GenerationOptions, eos: Sequence[int], new: int
) -> Floats:
    """Apply the repetition penalty and the least length to one row.

    Args:
        scores: logits or log-probabilities, ``(vocabulary,)``.
        history: tokens that were there before.
        options: the request's.
        eos: tokens that end a text.
        new: tokens written so far.

    Raises:
        CorruptFileError: the scores are no numbers.
    """
    if np.isnan(scores).any():
        raise CorruptFileError("the model's answer is not a number; the task or the model is damaged, restore it.")
    if options.repetition_penalty != 1 and history:
        seen = np.unique(np.asarray(history))
        scores = scores.copy()
        found = scores[seen]
        penalty = np.float32(options.repetition_penalty)
        scores[seen] = np.where(found < 0, found * penalty, found / penalty)
    if new < options.min_new_tokens and eos:
        scores = scores.copy()
        scores[list(eos)] = -np.inf
    return scores


def pick(scores: Floats, options: GenerationOptions, rng: np.random.Generator) -> int:
    """Return the likeliest token, or draw one where there is a temperature."""
    if options.temperature == 0:
        return int(scores.argmax())
    chances = probabilities(scores, options)
    return int(rng.choice(len(chances), p=chances))


def probabilities(scores: Floats, options: GenerationOptions) -> Doubles:
    """Return what tokens are drawn by, ``(vocabulary,)``: temperature, then top-k, then top-p."""
    # The likeliest token's score becomes 0 first, so that no temperature, however small, makes it infinite.
    warped = scores.astype(np.float64)
    warped -= warped.max()
    with np.errstate(over="ignore"):
        warped = warped / options.temperature
    if 0 < options.top_k < len(warped):
        least = np.partition(warped, -options.top_k)[-options.top_k]
        warped = np.where(warped < least, -np.inf, warped)
    if options.top_p < 1:
        order = np.argsort(warped, kind="stable")
        summed = np.cumsum(np.exp(log_softmax(warped[order])))
        dropped = summed <= 1 - options.top_p
        dropped[-1] = False
        warped = warped.copy()
        warped[order[dropped]] = -np.inf
    chances: Doubles = np.exp(log_softmax(warped))
    chances /= chances.sum()
    return chances
