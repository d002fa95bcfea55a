"""Figures of a classification: accuracy, macro F1, and a scale that makes scores probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge.inference.numerics import log_softmax
from mpt_edge.training.data.rows import Rows


def classification_metrics(predicted: NDArray[np.int64], rows: Rows) -> dict[str, Any]:
    """Return accuracy, macro F1 and Matthews correlation with the number of rows they were measured on."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # most commands measure nothing

    return {
        "accuracy": round(float(accuracy_score(rows.labels, predicted)), 4),
        "macro_f1": round(float(f1_score(rows.labels, predicted, average="macro", zero_division=0)), 4),
        "matthews": round(float(matthews_corrcoef(rows.labels, predicted)), 4),
        "rows": len(rows),
    }


def calibrated_scale(similarities: NDArray[np.float32], rows: Rows) -> float:
    """Return the factor on similarities or logits ``(rows, labels)`` with the least log loss (temperature scaling).

    It changes no prediction; it is fitted on validation rows so that scores mean probabilities. One row more than
    there are counts with every label alike, so that a few rows that are all answered right do not make every score 1.
    """
    from scipy.optimize import minimize_scalar

    gold, unsure = np.asarray(rows.labels), 1 / (len(rows) + 1)

    def loss(log_scale: float) -> float:
        chances = log_softmax(similarities * np.exp(log_scale))
        right = np.take_along_axis(chances, gold[:, None], axis=1)
        return -float((1 - unsure) * right.mean() + unsure * chances.mean())

    found = minimize_scalar(loss, bounds=(np.log(0.01), np.log(200.0)), method="bounded")
    return float(f"{np.exp(found.x):.5g}")
