"""Columns as recipes name them, and rows that generate text."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from mpt_edge.errors import InputError
from mpt_edge.training.data.columns import as_text, column, roots
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import few_shot, load_task


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_entries() -> None:
    table = datasets.Dataset.from_dict(
        {"q": ["who {c}?", "why?"], "c": ["me", None], "a": [{"text": ["x", "y"]}, {"text": []}], "d.e": [1.25, 2.0]}
    )
    assert column(table, "q") == ["who {c}?", "why?"]
    assert column(table, "a.text") == [["x", "y"], []]
    assert column(table, "d.e") == [1.25, 2.0]
    # What a row holds is not looked into again.
    assert column(table, "Q: {q} C: {c} A: {a.text}") == ["Q: who {c}? C: me A: x, y", "Q: why? C:  A: "]
    assert column(table, "a.missing") == [None, None]
    assert roots("Q: {q} A: {a.text}") == ["q", "a"]
    assert roots("a.text") == ["a"]


@pytest.mark.parametrize(
    ("value", "text"), [(3.7999999, "3.8"), (5.0, "5.0"), (7, "7"), (None, ""), (["a", 1], "a, 1")]
)
def test_values_in_a_text(value: object, text: str) -> None:
    assert as_text(value) == text


def recipe(folder: Path, rows: list[dict[str, object]], **entries: object) -> Recipe:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Recipe("say", "rows.jsonl", "rows.jsonl", kind="generation", text="source", **entries)  # type: ignore[arg-type]


def test_rows_to_generate(tmp_path: Path) -> None:
    rows = [
        {"source": "a", "target": "x", "references": ["x", "z"]},
        {"source": "b", "target": "y", "references": None},
    ]
    data = load_task(recipe(tmp_path, rows), tmp_path)
    assert data.labels == ()
    assert data.train.texts == ["a", "b"]
    assert data.train.references == [("x", "z"), ("y",)]
    assert data.train.head(1).references == [("x", "z")]
    assert data.test is None


def test_rows_that_are_wanted(tmp_path: Path) -> None:
    rows = [{"source": "a", "target": "x", "of": "one"}, {"source": "b", "target": "y", "of": "two"}]
    assert load_task(recipe(tmp_path, rows, where={"of": "two"}), tmp_path).train.texts == ["b"]
    with pytest.raises(InputError, match="train split is empty"):
        load_task(recipe(tmp_path, rows, where={"of": "three"}), tmp_path)
    with pytest.raises(InputError, match="no column 'kind'"):
        load_task(recipe(tmp_path, rows, where={"kind": "two"}), tmp_path)


@pytest.mark.parametrize("target", [None, "  ", [], ["x", ""]])
def test_a_row_with_nothing_to_generate(tmp_path: Path, target: object) -> None:
    with pytest.raises(InputError, match="row 1 of the train split has nothing to generate"):
        load_task(recipe(tmp_path, [{"source": "a", "target": target}]), tmp_path)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("target", ["good", "nan", "3,5"])
def test_a_target_that_is_no_number_where_numbers_are_compared(tmp_path: Path, metric: str, target: str) -> None:
    rows = [{"source": "a", "target": "3.8"}, {"source": "b", "target": target}]
    with pytest.raises(InputError, match=f"say: row 2 of the train split has '{target}' .* {metric} compares numbers"):
        load_task(recipe(tmp_path, rows, metric=metric), tmp_path)
    assert load_task(recipe(tmp_path, rows, metric="bleu"), tmp_path).train.references == [("3.8",), (target,)]
    assert len(load_task(recipe(tmp_path, rows[:1], metric=metric), tmp_path).train) == 1


def test_a_column_of_a_pattern_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'gloss'"):
        load_task(recipe(tmp_path, [{"source": "a", "target": "b"}], target="{gloss}!"), tmp_path)


def test_few_rows_to_generate(tmp_path: Path) -> None:
    """There are no labels to draw from, so it is that many rows in all."""
    rows = [{"source": f"s{i}", "target": f"t{i}"} for i in range(9)]
    drawn = few_shot(load_task(recipe(tmp_path, rows), tmp_path), 4, seed=1)
    assert len(drawn.train) == len(drawn.validation) == 4
    assert [answers[0].replace("t", "s") for answers in drawn.train.references] == drawn.train.texts
    assert drawn.train.texts != few_shot(load_task(recipe(tmp_path, rows), tmp_path), 4, seed=2).train.texts
    with pytest.raises(InputError, match="9 training rows, fewer than 10"):
        few_shot(load_task(recipe(tmp_path, rows), tmp_path), 10, seed=1)
