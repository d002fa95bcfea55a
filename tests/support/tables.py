"""Small tables in files of each format, and recipes for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mpt_edge.errors import InputError
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import Recipe

ROWS: list[dict[str, object]] = [
    {"text": "a witty film, really", "label": "good"},
    {"text": 'a "dull" film', "label": "bad"},
    {"text": "größer\nthan the star", "label": "good"},
]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows in the format of the path's suffix."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_recipe(suffix: str = ".jsonl", **changes: object) -> Recipe:
    """Return a recipe of three files with that suffix."""
    return replace(Recipe("toy", f"train{suffix}", f"validation{suffix}", test=f"test{suffix}"), **changes)


def assert_refused(recipe: Recipe, folder: Path, *parts: str) -> None:
    """Check that loading fails with one line that has all of ``parts``."""
    with pytest.raises(InputError) as caught:
        load_task(recipe, folder)
    message = str(caught.value)
    assert message.startswith("toy: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
