"""Metrics of text against hand-counted values and the tools' own documentation."""

from __future__ import annotations

import pytest

from mpt_edge.training.objectives.text_metrics import TEXT_METRICS, normalize_answer


def test_squad_normalization() -> None:
    assert normalize_answer("  The quick,  brown (fox)! An apple-pie") == "quick brown fox applepie"


@pytest.mark.parametrize(
    ("metric", "predicted", "references", "expected"),
    [
        ("exact_match", ["The Beatles!", "Paris"], [["beatles"], ["London", "in Paris"]], 0.5),
        # "in the city of Paris" has 4 words without the article, one in common: F1 = 2·1 / (4 + 1).
        ("f1", ["in the city of Paris"], [["Paris"]], 0.4),
        ("f1", ["in the city of Paris"], [["Paris", "the city of Paris"]], 6 / 7),
        ("f1", ["", "the"], [["the"], ["word"]], 0.5),
        ("bleu", ["the cat sat on the mat today"], [["a dog", "the cat sat on the mat today"]], 1.0),
        # Precisions 5/6, 4/5, 3/4, 2/3 and no brevity penalty.
        ("bleu", ["the cat sat on the mat"], [["the cat sat on the rug"]], (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25),
        # Longest common subsequence "police the gunman": 3 of 4 and 3 of 4 words.
        ("rouge_l", ["police kill the gunman"], [["police killed the gunman"]], 1.0),
        ("rouge_l", ["police ended the gunman"], [["police killed the gunman"]], 0.75),
        ("pearson", ["1.0", "2.0", "3.0"], [["2"], ["4"], ["6"]], 1.0),
        ("pearson", ["3", "2", "1"], [["2"], ["4"], ["6"]], -1.0),
        ("pearson", ["2", "2", "2"], [["2"], ["4"], ["6"]], 0.0),
        ("spearman", ["1", "10", "100"], [["1"], ["2"], ["3"]], 1.0),
        ("pearson", ["1", "no idea", "nan", "3"], [["1"], ["2"], ["2"], ["3"]], 1.0),
    ],
)
def test_metric(metric: str, predicted: list[str], references: list[list[str]], expected: float) -> None:
    assert TEXT_METRICS[metric](predicted, references) == pytest.approx(expected, abs=1e-6)


def test_bleu_with_different_numbers_of_references() -> None:
    value = TEXT_METRICS["bleu"](["a b c d", "e f g h"], [["a b c d", "x"], ["e f g h"]])
    assert value == pytest.approx(1.0)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_huge_numbers_stay_in_range(metric: str) -> None:
    value = TEXT_METRICS[metric](["1e308", "-1e308", "3"], [["1"], ["2"], ["3"]])
    assert -1 <= value <= 1
