"""Texts for the small encoder, and comparing what tasks answer to them."""

from __future__ import annotations

import numpy as np

from mpt_edge.inference.answers import Prediction
from tests.support.encoders import WORDS

TEXTS = ["a witty film", "dull", "the ball game was great sport", "vote law party", "atom cell star text a the film"]
LONG = "good film " * 40


def rows(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of one to twelve words."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(WORDS.split(), rng.integers(1, 13)))] = None
    return list(found)


def vector(answer: Prediction) -> np.ndarray:
    return np.array([*answer.similarities.values(), *answer.scores.values()])


def assert_same(found: list[Prediction], expected: list[Prediction], tolerance: float = 1e-5) -> None:
    assert [(p.task, p.label, p.truncated) for p in found] == [(p.task, p.label, p.truncated) for p in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one.scores) == list(other.scores)
        np.testing.assert_allclose(vector(one), vector(other), atol=tolerance, rtol=0)
