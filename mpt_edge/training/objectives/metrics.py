"""Metrics of a classification, and the scale that turns its scores into probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge.inference.numerics import log_softmax
from mpt_edge.training.data.examples import Examples

#: Metrics that recipes with labels may name; task files state all of them.
CLASSIFICATION_METRICS = ("accuracy", "macro_f1", "matthews")

#: Share of the right answers whose scores are above a task's threshold.
KEPT = 0.95


def classification_metrics(predicted: NDArray[np.int64], examples: Examples) -> dict[str, Any]:
    """Return accuracy, macro F1, Matthews correlation, and the number of examples."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # most commands measure nothing

    return {
        "accuracy": round(float(accuracy_score(examples.labels, predicted)), 4),
        "macro_f1": round(float(f1_score(examples.labels, predicted, average="macro", zero_division=0)), 4),
        "matthews": round(float(matthews_corrcoef(examples.labels, predicted)), 4),
        "examples": len(examples),
    }


def calibrate_scale(scores: NDArray[np.float32], examples: Examples) -> float:
    """Return the factor on scores ``(examples, labels)`` with the lowest log loss (temperature scaling).

    It changes no prediction. It is fitted on validation examples, so that scores mean probabilities.
    One more example counts with all labels alike. Otherwise a few examples, all answered right, would
    make every score 1.
    """
    from scipy.optimize import minimize_scalar

    target, unsure = np.asarray(examples.labels), 1 / (len(examples) + 1)

    def loss(log_scale: float) -> float:
        log_probs = log_softmax(scores * np.exp(log_scale))
        right = np.take_along_axis(log_probs, target[:, None], axis=1)
        return -float((1 - unsure) * right.mean() + unsure * log_probs.mean())

    result = minimize_scalar(loss, bounds=(np.log(0.01), np.log(200.0)), method="bounded")
    return float(f"{np.exp(result.x):.5g}")


def fit_threshold(probs: NDArray[np.float64], examples: Examples) -> float | None:
    """Return the probability that all but 5 percent of the right answers reach; None where no answer is right.

    Args:
        probs: probabilities ``(examples, labels)``.
        examples: validation examples.
    """
    scores = probs.max(1)[probs.argmax(1) == np.asarray(examples.labels)]
    return float(f"{np.quantile(scores, 1 - KEPT, method='lower'):.5g}") if len(scores) else None
