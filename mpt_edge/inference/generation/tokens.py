"""The next token: penalties on its scores, and the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.numerics import log_softmax

Doubles = NDArray[np.float64]


def penalize(
    scores: Floats, history: Sequence[int], options: GenerationOptions, eos: Sequence[int], new: int
) -> Floats:
    """Apply the repetition penalty and the minimum length to one row.

    Args:
        scores: logits or log-probabilities, ``(vocabulary,)``.
        history: tokens so far, input included.
        options: the request's options.
        eos: tokens that end a text.
        new: number of generated tokens so far.

    Raises:
        CorruptFileError: the scores are not numbers.
    """
    if np.isnan(scores).any():
        raise CorruptFileError("the model's answer is not a number; the task or the model is damaged, restore it.")
    if options.repetition_penalty != 1 and history:
        seen = np.unique(np.asarray(history))
        scores = scores.copy()
        repeated = scores[seen]
        penalty = np.float32(options.repetition_penalty)
        scores[seen] = np.where(repeated < 0, repeated * penalty, repeated / penalty)
    if new < options.min_new_tokens and eos:
        scores = scores.copy()
        scores[list(eos)] = -np.inf
    return scores


def pick(scores: Floats, options: GenerationOptions, rng: np.random.Generator) -> int:
    """Return the likeliest token, or sample one if the temperature is above 0."""
    if options.temperature == 0:
        return int(scores.argmax())
    probs = probabilities(scores, options)
    return int(rng.choice(len(probs), p=probs))


def probabilities(scores: Floats, options: GenerationOptions) -> Doubles:
    """Return the sampling probabilities ``(vocabulary,)``: temperature, then top-k, then top-p."""
    # The best score becomes 0 first, so that no temperature, however small, makes it infinite.
    warped = scores.astype(np.float64)
    warped -= warped.max()
    with np.errstate(over="ignore"):
        warped = warped / options.temperature
    if 0 < options.top_k < len(warped):
        lowest = np.partition(warped, -options.top_k)[-options.top_k]
        warped = np.where(warped < lowest, -np.inf, warped)
    if options.top_p < 1:
        order = np.argsort(warped, kind="stable")
        summed = np.cumsum(np.exp(log_softmax(warped[order])))
        dropped = summed <= 1 - options.top_p
        dropped[-1] = False
        warped = warped.copy()
        warped[order[dropped]] = -np.inf
    probs: Doubles = np.exp(log_softmax(warped))
    probs /= probs.sum()
    return probs
