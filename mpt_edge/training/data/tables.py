"""Tables of a recipe's splits, from local files or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from mpt_edge.errors import InputError
from mpt_edge.training.data.columns import as_name, roots
from mpt_edge.training.data.recipes import Recipe

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

#: Messages of datasets and pyarrow about a CSV with only a header, and about a Parquet file without rows.
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")


def read_table(recipe: Recipe, split: str, root: Path, entries: Sequence[str]) -> datasets.Dataset:
    """Read one split, with at least one row and all columns that the recipe names.

    Args:
        recipe: the task.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        root: folder that the recipe's paths start from.
        entries: the recipe's entries of the columns to read.

    Raises:
        InputError: the file or a column is missing, or no row is left.
    """
    table = _load(recipe, getattr(recipe, split), root)
    for name in [*(name for entry in entries for name in roots(entry)), *recipe.where]:
        if name not in table.column_names:
            raise InputError(
                f"{recipe.name}: the {split} split has no column {name!r} (it has "
                f"{', '.join(table.column_names)}); name the right one in the recipe."
            )
    for name, expected in recipe.where.items():
        kept = [i for i, value in enumerate(table[name]) if as_name(value) == expected]
        table = table.select(kept)
    if len(table) == 0:
        raise InputError(f"{recipe.name}: the {split} split is empty; point the recipe at rows.")
    return table


def _load(recipe: Recipe, split: str, root: Path) -> datasets.Dataset:
    """Load a split of the hub data set, or a file below ``root``. Raises InputError."""
    try:
        if recipe.hub:
            return datasets.load_dataset(recipe.hub, recipe.config, split=split)
        path = root / split
        if not path.is_file():
            raise InputError(f"{recipe.name}: no file {path}; check the recipe, or pass the folder with --data.")
        if path.suffix not in _FORMATS:
            raise InputError(f"{recipe.name}: cannot read {path.name}; use {', '.join(_FORMATS)}.")
        options = _csv_options(path) if path.suffix == ".csv" else {}
        return datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except InputError:
        raise
    except Exception as error:  # each of the many builders of datasets raises errors of its own
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or ["it is empty"])[0].removesuffix(".")
        if any(words in reason for words in _NO_ROWS):
            reason = "it has no rows"
        raise InputError(
            f"{recipe.name}: cannot read {recipe.hub or root / split} ({reason}); mend it, or point the recipe "
            "elsewhere."
        ) from error


def _csv_options(path: Path) -> dict[str, Any]:
    """Return options that keep each cell as text; guessed types would change labels such as ``01`` and ``None``."""
    text = datasets.Value("string")
    features = datasets.Features(dict.fromkeys(pd.read_csv(path, nrows=0).columns, text))
    return {"features": features, "keep_default_na": False}
