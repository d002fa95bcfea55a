"""From scores to probabilities, in float64: those of large vocabularies add up to one only there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities over the last axis in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return probabilities


def log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis, in float64."""
    wide = scores.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def pool(hidden: Floats, mask: NDArray[np.int64], how: str) -> Floats:
    """Pool hidden states ``(rows, tokens, d)`` over visible tokens into unit vectors ``(rows, d)``.

    Args:
        hidden: last hidden states of text tokens.
        mask: 1 for visible tokens, ``(rows, tokens)``.
        how: ``"mean"``, ``"cls"`` (first visible token) or ``"max"``.
    """
    if how == "mean":
        weights = mask.astype(np.float32)
        pooled = np.einsum("rtd,rt->rd", hidden, weights) / weights.sum(1, keepdims=True)
    elif how == "max":
        pooled = np.where(mask[..., None] == 1, hidden, -np.inf).max(1)
    else:
        pooled = hidden[np.arange(len(hidden)), mask.argmax(1)]
    return unit(pooled)


def unit(vectors: Floats) -> Floats:
    """Scale vectors ``(rows, d)`` to length one; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def label_embeddings(texts: Floats, owners: Sequence[int], labels: int) -> Floats:
    """Average the unit embeddings of each label's texts into one unit vector a label.

    Args:
        texts: embeddings of all label texts, ``(texts, d)``.
        owners: for each text the label it stands for.
        labels: number of labels.
    """
    sums = np.zeros((labels, texts.shape[1]), np.float32)
    np.add.at(sums, np.asarray(owners), texts)
    return unit(sums)
