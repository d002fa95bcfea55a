"""Softmax and pooling in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats, Ids
from mpt_edge.formats.manifest import Pooling


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities over the last axis.

    They are float64, since those of large vocabularies add up to one only there.
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probs: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return probs


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def pool(hidden: Floats, mask: Ids, pooling: Pooling | None) -> Floats:
    """Pool hidden states ``(rows, tokens, d)`` over visible tokens to ``(rows, d)``.

    Args:
        hidden: last hidden states of text tokens.
        mask: 1 for visible tokens, ``(rows, tokens)``.
        pooling: the backbone's pooling.
    """
    if pooling is Pooling.MEAN:
        weights = mask.astype(np.float32)
        pooled: Floats = np.einsum("rtd,rt->rd", hidden, weights) / weights.sum(1, keepdims=True)
        return pooled
    if pooling is Pooling.MAX:
        maxima: Floats = np.where(mask[..., None] == 1, hidden, np.float32(-np.inf)).max(1)
        return maxima
    first: Floats = hidden[np.arange(len(hidden)), mask.argmax(1)]
    return first


def unit(vectors: Floats) -> Floats:
    """Scale vectors ``(…, d)`` to length one; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def label_embeddings(texts: Floats, owners: Sequence[int], labels: int) -> Floats:
    """Average the unit embeddings of each label's texts to one unit vector per label.

    Args:
        texts: unit embeddings of all label texts, ``(texts, d)``.
        owners: for each text, the index of its label.
        labels: number of labels.
    """
    sums = np.zeros((labels, texts.shape[1]), np.float32)
    np.add.at(sums, np.asarray(owners), texts)
    return unit(sums)
