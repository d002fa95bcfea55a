"""Metrics in task files, and their short form in tables and cards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

#: Splits of the data that metrics are measured on.
SPLITS = ("validation", "test")

#: Other methods on the same frozen backbone, whose figures a task's metrics may have; each has splits of its own.
BASELINES = ("linear_probe", "zero_shot", "three_shot", "lora")

#: Entries of a split that are no metric of its answers.
_OTHERS = ("examples", "loss", "texts")


def headline(metrics: Mapping[str, Any] | None) -> tuple[str, float] | None:
    """Return name and value of the metric that sums up a split: accuracy, or a generated text's metric."""
    for name in ("accuracy", *(metrics or {})):
        if metrics and name in metrics and name not in _OTHERS:
            return name, float(metrics[name])
    return None


def headline_text(metrics: Mapping[str, Any] | None, digits: int, *, percent: bool = False) -> str:
    """Format the headline for a table: named, unless it is accuracy; ``-`` where there is none.

    Args:
        metrics: metrics of a split by name, or None.
        digits: digits after the decimal point.
        percent: print hundredths.
    """
    result = headline(metrics)
    if result is None:
        return "-"
    name, value = result
    text = f"{100 * value if percent else value:.{digits}f}"
    return text if name == "accuracy" else f"{name} {text}"


def figures(metrics: Mapping[str, Any] | None) -> str:
    """Format all metrics of a split in hundredths: the accuracy alone where there is one; ``-`` where there is none."""
    if not metrics or "accuracy" in metrics:
        return headline_text(metrics, 1, percent=True)
    parts = [f"{name} {100 * value:.1f}" for name, value in metrics.items() if name not in _OTHERS]
    return ", ".join(parts) or "-"


def baselines(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the entries of `BASELINES` that a task's metrics have."""
    return {name: metrics[name] for name in BASELINES if name in metrics}


def are_metrics(metrics: Mapping[str, Any]) -> bool:
    """Whether the metrics that tables show, a task's and its baselines', are numbers with printable names."""
    parts = [metrics, *baselines(metrics).values()]
    if not all(isinstance(part, Mapping) for part in parts):
        return False
    splits = [part.get(split, {}) for part in parts for split in SPLITS]
    return all(isinstance(split, Mapping) and all(map(_is_metric, split, split.values())) for split in splits)


def _is_metric(name: str, value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # A correlation may be NaN, and an integer may be too large for float().
    return name.isprintable() and not abs(value) > sys.float_info.max
