"""Texts for the small encoder, and comparison of its answers."""

from __future__ import annotations

import numpy as np

from mpt_edge.inference.answers import Prediction
from tests.support.encoders import WORDS

TEXTS = ["a witty film", "dull", "the ball game was great sport", "vote law party", "atom cell star text a the film"]
LONG = "good film " * 40


def rows(count: int, seed: int = 0) -> list[str]:
    """Return distinct texts of one to twelve words."""
    rng = np.random.default_rng(seed)
    result: dict[str, None] = {}
    while len(result) < count:
        result[" ".join(rng.choice(WORDS.split(), rng.integers(1, 13)))] = None
    return list(result)


def vector(answer: Prediction) -> np.ndarray:
    """Return all similarities, then all scores."""
    return np.array([*answer.similarities.values(), *answer.scores.values()])


def assert_same(result: list[Prediction], expected: list[Prediction], tolerance: float = 1e-5) -> None:
    """Check that answers are equal, and their numbers almost."""
    assert [(p.task, p.label, p.truncated) for p in result] == [(p.task, p.label, p.truncated) for p in expected]
    for one, other in zip(result, expected, strict=True):
        assert list(one.scores) == list(other.scores)
        np.testing.assert_allclose(vector(one), vector(other), atol=tolerance, rtol=0)
