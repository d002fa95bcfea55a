"""Measured figures of a task, as its file holds them and tables and cards show them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def headline(figures: Mapping[str, Any] | None) -> tuple[str, float] | None:
    """Return the metric that sums a split up, and its value: accuracy, or what a text is scored by."""
    for name in ("accuracy", *(figures or {})):
        if figures and name in figures and name not in ("rows", "loss"):
            return name, float(figures[name])
    return None


def headline_text(figures: Mapping[str, Any] | None, digits: int, *, percent: bool = False) -> str:
    """Return the headline as tables show it: behind its metric's name, unless that is accuracy; ``-`` for none.

    Args:
        figures: metrics of a split by name, or None.
        digits: digits behind the point.
        percent: write hundredths.
    """
    found = headline(figures)
    if found is None:
        return "-"
    name, value = found
    text = f"{100 * value if percent else value:.{digits}f}"
    return text if name == "accuracy" else f"{name} {text}"


def are_figures(metrics: Mapping[str, Any]) -> bool:
    """Whether the figures that tables and cards show, a task's and its probe's, are numbers by printable names."""
    parts = [metrics, metrics.get("probe", {})]
    if not isinstance(parts[1], dict):
        return False
    splits = [part.get(split, {}) for part in parts for split in ("validation", "test")]
    return all(isinstance(split, dict) and all(map(_is_figure, split, split.values())) for split in splits)


def _is_figure(name: str, value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # A correlation may be NaN; a whole number may be too large for float().
    return name.isprintable() and not abs(value) > sys.float_info.max
