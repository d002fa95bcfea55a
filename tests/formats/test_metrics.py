"""The metric that sums up a split, and metrics that cannot be printed."""

from __future__ import annotations

import pytest

from mpt_edge.formats.metrics import are_metrics, figures, headline, headline_text


@pytest.mark.parametrize(
    ("metrics", "plain", "percent"),
    [
        ({"examples": 12, "loss": 0.4, "matthews": 0.5, "accuracy": 0.8342}, "0.834", "83.4"),
        ({"examples": 12, "loss": 0.4, "f1": 0.25, "rouge": 0.5}, "f1 0.250", "f1 25.0"),
        ({"examples": 12}, "-", "-"),
        ({}, "-", "-"),
        (None, "-", "-"),
    ],
)
def test_headline_in_a_table(metrics: dict[str, float] | None, plain: str, percent: str) -> None:
    assert headline_text(metrics, 3) == plain
    assert headline_text(metrics, 1, percent=True) == percent


def test_all_figures_of_a_split() -> None:
    assert figures({"bleu": 0.2251, "rouge_l": 0.5, "loss": 2.1, "texts": 300}) == "bleu 22.5, rouge_l 50.0"
    assert figures({"matthews": 0.1, "accuracy": 0.912}) == "91.2"
    assert figures({"examples": 3}) == figures(None) == "-"


def test_headline() -> None:
    assert headline({"examples": 3, "f1": 1, "accuracy": 0.5}) == ("accuracy", 0.5)
    assert headline({"loss": 0.1, "examples": 3}) is None
    assert headline(None) is None


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, True),
        ({"test": {"accuracy": 1, "pearson": float("nan")}, "linear_probe": {"test": {"f1": 0.5}, "C": 0.3}}, True),
        ({"lora": {"test": {"bleu": 0.2}}, "zero_shot": {}}, True),
        ({"other": "text"}, True),
        ({"test": 5}, False),
        ({"test": {"accuracy": True}}, False),
        ({"test": {"accuracy": "high"}}, False),
        ({"validation": {"accuracy": 10**400}}, False),
        ({"test": {"a\u001b[2J": 1}}, False),
        ({"linear_probe": 3}, False),
        ({"lora": "text"}, False),
        ({"linear_probe": {"test": {"accuracy": None}}}, False),
        ({"zero_shot": {"test": {"bleu": "high"}}}, False),
    ],
    ids=str,
)
def test_are_metrics(metrics: dict[str, object], expected: bool) -> None:
    assert are_metrics(metrics) == expected
