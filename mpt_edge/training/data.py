"""Rows of a recipe's splits, from local files or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from mpt_edge.errors import InputError
from mpt_edge.text import Encoded, Text, TextEncoder, checked, render
from mpt_edge.training.recipes import Recipe

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Rows:
    """One split: texts as they lie in the data, and label indices."""

    texts: list[Text]
    labels: list[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def head(self, count: int) -> Rows:
        """Return the first rows."""
        return Rows(self.texts[:count], self.labels[:count])


@dataclass(frozen=True)
class TaskData:
    """A recipe with its labels fixed and its splits read."""

    recipe: Recipe
    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows | None


def encode(encoder: TextEncoder, recipe: Recipe, texts: Sequence[Text], max_length: int) -> list[Encoded]:
    """Fill the recipe's template and tokenise, as the device does."""
    return encoder.encode([render(recipe.template, text) for text in texts], max_length)


def load_task(recipe: Recipe, root: Path, *, test: bool = False) -> TaskData:
    """Read a recipe's splits; the test split only where asked for.

    Args:
        recipe: the task.
        root: folder that the recipe's paths start from.
        test: whether to read the test split.

    Raises:
        InputError: a file, column or label is missing, or a split is empty.
    """
    quiet = datasets.utils.logging
    quiet.set_verbosity_error()
    datasets.disable_progress_bars()
    train = _column_rows(recipe, "train", root)
    labels = tuple(recipe.labels) or tuple(sorted({label for _, label in train}))
    if len(labels) < 2:
        raise InputError(f"{recipe.name}: the training split has one label; a choice needs at least two.")
    return TaskData(
        recipe=recipe,
        labels=labels,
        train=_indexed(train, labels, recipe, "train"),
        validation=_indexed(_column_rows(recipe, "validation", root), labels, recipe, "validation"),
        test=_indexed(_column_rows(recipe, "test", root), labels, recipe, "test") if test and recipe.test else None,
    )


def few_shot(data: TaskData, shots: int, seed: int) -> TaskData:
    """Return a task with ``shots`` training rows a label, and as many validation rows at most.

    A label with fewer validation rows keeps all it has; the test split is left whole.

    Args:
        data: the task with all its rows.
        shots: rows a label.
        seed: fixes which rows.

    Raises:
        InputError: a label has fewer training rows than ``shots``.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(data.train.labels, minlength=len(data.labels))
    if counts.min() < shots:
        label = data.labels[int(counts.argmin())]
        raise InputError(
            f"{data.recipe.name}: the label {label!r} has {counts.min()} training rows, fewer than {shots}; "
            "lower --shots or add rows."
        )
    return replace(data, train=_some(data.train, shots, rng), validation=_some(data.validation, shots, rng))


def _some(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Draw up to ``count`` rows of each label."""
    gold = np.array(rows.labels)
    drawn = [rng.permutation(np.flatnonzero(gold == label))[:count] for label in np.unique(gold)]
    kept = np.sort(np.concatenate(drawn)).tolist()
    return Rows([rows.texts[i] for i in kept], [rows.labels[i] for i in kept])


def _column_rows(recipe: Recipe, split: str, root: Path) -> list[tuple[Text, str]]:
    table = _table(recipe, getattr(recipe, split), root)
    columns = [recipe.text, recipe.label] + ([recipe.text_pair] if recipe.kind == "pair" else [])
    for column in columns:
        if column not in table.column_names:
            raise InputError(
                f"{recipe.name}: the {split} split has no column {column!r} (it has "
                f"{', '.join(table.column_names)}); name the right one in the recipe."
            )
    if len(table) == 0:
        raise InputError(f"{recipe.name}: the {split} split is empty; point the recipe at rows.")
    feature = table.features[recipe.label]
    named = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
    firsts, labels = table[recipe.text], table[recipe.label]
    seconds = table[recipe.text_pair] if recipe.kind == "pair" else None
    rows: list[tuple[Text, str]] = []
    for i, (first, label) in enumerate(zip(firsts, labels, strict=True)):
        try:
            text = checked(first if seconds is None else (first, seconds[i]), recipe.kind)
        except InputError as error:
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split: {error}") from error
        if label is None:
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split has no label; give it one or drop it.")
        rows.append((text, named(label)))
    return rows


def _table(recipe: Recipe, place: str, root: Path) -> datasets.Dataset:
    try:
        if recipe.hub:
            return datasets.load_dataset(recipe.hub, recipe.config or None, split=place)
        path = root / place
        if not path.is_file():
            raise InputError(f"{recipe.name}: no file {path}; check the recipe, or pass the folder with --data.")
        if path.suffix not in _FORMATS:
            raise InputError(f"{recipe.name}: cannot read {path.name}; use {', '.join(_FORMATS)}.")
        return datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")
    except InputError:
        raise
    except Exception as error:  # the many builders of datasets raise many kinds of error
        cause = error.__cause__ or error
        where = recipe.hub or root / place
        reason = (str(cause).splitlines() or ["it is empty"])[0].removesuffix(".")
        raise InputError(
            f"{recipe.name}: cannot read {where} ({reason}); mend it, or point the recipe elsewhere."
        ) from error


def _indexed(rows: list[tuple[Text, str]], labels: tuple[str, ...], recipe: Recipe, split: str) -> Rows:
    index = {label: i for i, label in enumerate(labels)}
    for number, (_, label) in enumerate(rows, start=1):
        if label not in index:
            raise InputError(
                f"{recipe.name}: row {number} of the {split} split has the label {label!r}, which the recipe "
                f"does not list; add it under [labels] or mend the data."
            )
    return Rows([text for text, _ in rows], [index[label] for _, label in rows])
