"""Softmax, pooling and label embeddings against values by hand and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from mpt_edge.formats.manifest import Pooling
from mpt_edge.inference.numerics import label_embeddings, log_softmax, pool, softmax, unit

HIDDEN = np.array([[[3.0, 4.0], [5.0, 12.0], [99.0, 99.0]], [[7.0, 7.0], [0.0, 2.0], [1.0, 0.0]]], np.float32)
MASK = np.array([[1, 1, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.MEAN, [[4, 8], [0.5, 1]]),
        (Pooling.MAX, [[5, 12], [1, 2]]),
        (Pooling.CLS, [[3, 4], [0, 2]]),
    ],
)
def test_pool(pooling: Pooling, expected: list[list[float]]) -> None:
    result = pool(HIDDEN, MASK, pooling)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_unit_and_label_embeddings() -> None:
    np.testing.assert_array_equal(unit(np.array([[0, 0], [3, 4]], np.float32)), np.float32([[0, 0], [0.6, 0.8]]))
    texts = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(label_embeddings(texts, [0, 0, 1], 2), [[half, half], [0, -1]], rtol=1e-6)


def test_softmax() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0], [5.0, 5.0]])), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_array_equal(softmax(np.array([1e5, 0.0, -1e5], np.float32)), [1, 0, 0])


def test_log_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (4, 200)).astype(np.float32)
    result = log_softmax(logits)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, scipy.special.log_softmax(logits.astype(np.float64), axis=-1), atol=1e-12)
    np.testing.assert_allclose(np.exp(result).sum(-1), 1, atol=1e-12)
