"""Columns as recipes name them."""

from __future__ import annotations

import pytest

from mpt_edge.training.data.columns import as_name, as_text, column, roots
from mpt_edge.training.data.tables import Table


def test_entries() -> None:
    table = Table(
        [
            {"q": "who {c}?", "c": "me", "a": {"text": ["x", "y"]}, "d.e": 1.25},
            {"q": "why?", "c": None, "a": {"text": []}, "d.e": 2.0},
        ]
    )
    assert column(table, "q") == ["who {c}?", "why?"]
    assert column(table, "a.text") == [["x", "y"], []]
    assert column(table, "d.e") == [1.25, 2.0]
    # Braces in a value are not replaced again.
    assert column(table, "Q: {q} C: {c} A: {a.text}") == ["Q: who {c}? C: me A: x, y", "Q: why? C:  A: "]
    assert column(table, "a.missing") == [None, None]
    assert roots("Q: {q} A: {a.text}") == ["q", "a"]
    assert roots("a.text") == ["a"]


@pytest.mark.parametrize(
    ("value", "text"), [(3.7999999, "3.8"), (5.0, "5.0"), (7, "7"), (None, ""), (["a", 1], "a, 1")]
)
def test_values_in_a_text(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(("value", "name"), [(True, "true"), (False, "false"), (1, "1"), ("None", "None")])
def test_values_as_labels(value: object, name: str) -> None:
    assert as_name(value) == name
