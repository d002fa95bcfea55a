"""Figures of a classification: accuracy, macro F1, and a scale that makes scores probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpt_edge.pooling import softmax
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

    It changes no prediction; it is fitted on validation rows so that scores mean probabilities.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    def loss(log_scale: float) -> float:
        return float(
            log_loss(rows.labels, softmax(similarities * np.exp(log_scale)), labels=range(similarities.shape[1]))
        )

    found = minimize_scalar(loss, bounds=(np.log(0.01), np.log(200.0)), method="bounded")
    return float(f"{np.exp(found.x):.5g}")
