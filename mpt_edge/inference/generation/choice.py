"""Scoring a closed set of texts in one decoder pass after a single prefill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.inference.numerics import log_softmax
from mpt_edge.inference.runtime.decoding import Decoding


def likelihoods(
    decoding: Decoding, logits: Floats, choices: Sequence[Sequence[Sequence[int]]]
) -> list[NDArray[np.float64]]:
    """Return the mean log-likelihood per token of each row's choices.

    The prefill gives the first token's. One further pass gives the others', with a row for each choice.

    Args:
        decoding: the model after the rows' inputs; consumed.
        logits: logits of each row's first token, ``(rows, vocabulary)``.
        choices: for each row, the tokens of its choices, at least one each.

    Returns:
        For each row, an array ``(choices,)``.
    """
    first = log_softmax(logits)
    flat = [(row, tokens) for row, group in enumerate(choices) for tokens in group]
    sums = np.array([first[row, tokens[0]] for row, tokens in flat])
    longest = max(len(tokens) for _, tokens in flat)
    if longest > 1:
        decoding.select(np.array([row for row, _ in flat], np.int64))
        given = np.zeros((len(flat), longest - 1), np.int64)
        mask = np.zeros_like(given)
        for i, (_, tokens) in enumerate(flat):
            given[i, : len(tokens) - 1] = tokens[:-1]
            mask[i, : len(tokens) - 1] = 1
        result = decoding.extend(given, mask)
        for i, (_, tokens) in enumerate(flat):
            later = np.asarray(tokens[1:], np.int64)
            sums[i] += log_softmax(result[i, : len(later)])[np.arange(len(later)), later].sum() if len(later) else 0.0
    means = sums / np.array([len(tokens) for _, tokens in flat])
    ends = np.cumsum([len(group) for group in choices])[:-1]
    return [np.asarray(part) for part in np.split(means, ends)]
