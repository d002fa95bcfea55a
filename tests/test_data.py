"""The data sets in the repository: their form, and that no sentence occurs twice."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPLITS = {"train": 240, "validation": 60, "test": 60}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_balanced(split):
    recipe = tomllib.loads((ROOT / "models" / "recipes" / "own" / "support.toml").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (ROOT / "data" / recipe[split]).read_text(encoding="utf-8").splitlines()]
    assert all(set(row) == {"text", "label"} for row in rows)
    assert Counter(row["label"] for row in rows) == dict.fromkeys(recipe["labels"], SPLITS[split] // 4)


def test_no_sentence_occurs_twice():
    paths = (ROOT / "data" / "support").glob("*.jsonl")
    texts = [json.loads(line)["text"].casefold() for path in paths for line in path.read_text("utf-8").splitlines()]
    assert len(texts) == 360
    assert len(set(texts)) == len(texts)


def test_the_license_is_stated():
    assert "CC0" in (ROOT / "data" / "README.md").read_text(encoding="utf-8")
