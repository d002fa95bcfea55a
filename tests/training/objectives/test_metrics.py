"""Metrics against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from mpt_edge.inference.numerics import softmax
from mpt_edge.training.data.examples import Examples
from mpt_edge.training.objectives.metrics import calibrate_scale, classification_metrics, fit_threshold


def test_metrics_of_two_labels() -> None:
    target, predicted = [1, 1, 1, 0, 0, 1, 0, 1], np.array([1, 0, 1, 0, 1, 1, 0, 1])
    tp, tn, fp, fn = 4, 2, 1, 1
    f1 = [2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)]
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = {"accuracy": 0.75, "macro_f1": np.mean(f1), "matthews": matthews, "examples": 8}
    assert classification_metrics(predicted, Examples(["a"] * 8, target)) == pytest.approx(expected, abs=5e-5)


def test_matthews_of_one_answer_for_all_is_zero() -> None:
    assert classification_metrics(np.ones(4, int), Examples(["a"] * 4, [0, 1, 1, 1]))["matthews"] == 0


@pytest.mark.parametrize(("spread", "factor"), [(0.4, 12.0), (40.0, 0.1)], ids=["cosines", "overconfident logits"])
def test_scale_has_the_least_log_loss(spread: float, factor: float) -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-spread, spread, (400, 3)).astype(np.float32)
    target = [int(rng.choice(3, p=softmax(factor * row[None])[0])) for row in cosines]
    scale = calibrate_scale(cosines, Examples(["a"] * 400, target))

    def loss(scale: float) -> float:
        log_probs = log_softmax(scale * cosines.astype(float), 1)
        return -(400 * log_probs[range(400), target].mean() + log_probs.mean()) / 401

    assert all(loss(scale) <= loss(other) + 1e-6 for other in factor * np.geomspace(0.1, 10, 200))
    assert scale == pytest.approx(factor, rel=0.25)


def test_a_few_examples_that_are_all_right_do_not_make_scores_certain() -> None:
    """The score of a label that all n examples have is as if one more example had said nothing."""
    cosines = np.array([[0.5, 0.1], [0.1, 0.5]] * 4, np.float32)
    scale = calibrate_scale(cosines, Examples(["a"] * 8, [0, 1] * 4))
    assert softmax(scale * cosines[:1])[0, 0] == pytest.approx((8 + 0.5) / 9, abs=1e-3)


def test_nineteen_of_twenty_right_answers_reach_the_threshold() -> None:
    rng = np.random.default_rng(0)
    probs = softmax(rng.standard_normal((400, 3)) * 2)
    target = [int(rng.choice(3, p=row)) for row in probs]
    threshold = fit_threshold(probs, Examples(["a"] * 400, target))
    assert threshold is not None
    right = probs.max(1)[probs.argmax(1) == target]
    assert (right >= threshold * 0.9999).mean() == pytest.approx(0.95, abs=0.01)
    assert fit_threshold(probs, Examples(["a"] * 400, [int(row.argmin()) for row in probs])) is None
