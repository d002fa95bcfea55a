"""Rows of a recipe's splits, from local files or the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mpt_edge.errors import InputError
from mpt_edge.inference.text import Encoded, Text, TextEncoder, render, validate_text
from mpt_edge.training.data.columns import as_name, as_text, column, roots
from mpt_edge.training.data.recipes import NUMBER_METRICS, Recipe

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Rows:
    """One split, as it lies in the data.

    Attributes:
        texts: what is read.
        labels: for each text the index of its label; empty where text is generated.
        references: for each text the right answers, where text is generated; the first is trained on.
    """

    texts: list[Text]
    labels: list[int]
    references: list[tuple[str, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """Return some rows by index, in the order of the data."""
        kept = np.sort(chosen).tolist()
        return Rows(
            [self.texts[i] for i in kept],
            [self.labels[i] for i in kept] if self.labels else [],
            [self.references[i] for i in kept] if self.references else [],
        )

    def sample(self, count: int) -> Rows:
        """Return at most ``count`` rows, the same ones each time, in the order of the data.

        Each label keeps its share: files are often sorted by label, so that the first rows have few of them.
        """
        if len(self) <= count:
            return self
        drawn = np.random.default_rng(0).permutation(len(self))
        if self.labels:
            drawn = drawn[np.argsort(np.array(self.labels)[drawn], kind="stable")]
        # Evenly spaced places: whatever stands together gets its share, rounded up or down.
        places = ((np.arange(count) + 0.5) * len(self) / count).astype(np.int64)
        return self.take(drawn[places])

    def head(self, count: int) -> Rows:
        """Return the first rows."""
        return Rows(self.texts[:count], self.labels[:count], self.references[:count])


@dataclass(frozen=True)
class TaskData:
    """A recipe with its labels fixed and its splits read."""

    recipe: Recipe
    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows | None


#: What datasets and pyarrow say of a CSV with a header alone, and of a Parquet file without rows.
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")


def encode(encoder: TextEncoder, recipe: Recipe, texts: Sequence[Text], max_length: int) -> list[Encoded]:
    """Fill the recipe's template and tokenize, as the device does."""
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
    if recipe.kind == "generation":
        splits = {split: _text_rows(recipe, split, root) for split in ("train", "validation")}
        return TaskData(recipe, (), **splits, test=_text_rows(recipe, "test", root) if test and recipe.test else None)
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

    Where text is generated there are no labels, and ``shots`` rows in all. A label with fewer validation
    rows keeps all it has; the test split is left whole.

    Args:
        data: the task with all its rows.
        shots: rows a label.
        seed: fixes which rows.

    Raises:
        InputError: a label has fewer training rows than ``shots``.
    """
    rng = np.random.default_rng(seed)
    if data.recipe.kind == "generation":
        if len(data.train) < shots:
            raise InputError(
                f"{data.recipe.name}: there are {len(data.train)} training rows, fewer than {shots}; lower --shots."
            )
        drawn = [rng.permutation(len(rows))[:shots] for rows in (data.train, data.validation)]
        return replace(data, train=data.train.take(drawn[0]), validation=data.validation.take(drawn[1]))
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
    return rows.take(np.concatenate(drawn))


def _column_rows(recipe: Recipe, split: str, root: Path) -> list[tuple[Text, str]]:
    entries = [recipe.text, recipe.label] + ([recipe.text_pair] if recipe.kind == "pair" else [])
    table = _checked_table(recipe, split, root, entries)
    feature = table.features.get(recipe.label)
    named = feature.int2str if isinstance(feature, datasets.ClassLabel) else as_name
    rows: list[tuple[Text, str]] = []
    for i, (text, label) in enumerate(zip(_texts(recipe, table, split), column(table, recipe.label), strict=True)):
        if label in (None, ""):
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split has no label; give it one or drop it.")
        rows.append((text, named(label)))
    return rows


def _text_rows(recipe: Recipe, split: str, root: Path) -> Rows:
    table = _checked_table(recipe, split, root, [recipe.text, recipe.target])
    texts = _texts(recipe, table, split)
    entry = recipe.references if roots(recipe.references)[0] in table.column_names else recipe.target
    references = []
    for i, (value, target) in enumerate(zip(column(table, entry), column(table, recipe.target), strict=True)):
        answers = value or target
        answers = tuple(map(as_text, answers)) if isinstance(answers, list) else (as_text(answers),)
        if not answers or not all(answer.strip() for answer in answers):
            raise InputError(
                f"{recipe.name}: row {i + 1} of the {split} split has nothing to generate; give it a target or drop it."
            )
        if recipe.metric in NUMBER_METRICS and not _is_number(answers[0]):
            raise InputError(
                f"{recipe.name}: row {i + 1} of the {split} split has {answers[0]!r} to generate, and {recipe.metric} "
                "compares numbers; give it a number, or the recipe another metric."
            )
        references.append(answers)
    return Rows(texts, [], references)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _texts(recipe: Recipe, table: datasets.Dataset, split: str) -> list[Text]:
    firsts = column(table, recipe.text)
    seconds = column(table, recipe.text_pair) if recipe.kind == "pair" else None
    texts: list[Text] = []
    for i, first in enumerate(firsts):
        try:
            texts.append(validate_text(first if seconds is None else (first, seconds[i]), recipe.kind))
        except InputError as error:
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split: {error}") from error
    return texts


def _checked_table(recipe: Recipe, split: str, root: Path, entries: Sequence[str]) -> datasets.Dataset:
    """Read one split, which has all columns that the recipe names, and rows."""
    table = _table(recipe, getattr(recipe, split), root)
    for name in [*(name for entry in entries for name in roots(entry)), *recipe.where]:
        if name not in table.column_names:
            raise InputError(
                f"{recipe.name}: the {split} split has no column {name!r} (it has "
                f"{', '.join(table.column_names)}); name the right one in the recipe."
            )
    for name, value in recipe.where.items():
        kept = [i for i, found in enumerate(table[name]) if as_name(found) == value]
        table = table.select(kept)
    if len(table) == 0:
        raise InputError(f"{recipe.name}: the {split} split is empty; point the recipe at rows.")
    return table


def _table(recipe: Recipe, place: str, root: Path) -> datasets.Dataset:
    try:
        if recipe.hub:
            return datasets.load_dataset(recipe.hub, recipe.config or None, split=place)
        path = root / place
        if not path.is_file():
            raise InputError(f"{recipe.name}: no file {path}; check the recipe, or pass the folder with --data.")
        if path.suffix not in _FORMATS:
            raise InputError(f"{recipe.name}: cannot read {path.name}; use {', '.join(_FORMATS)}.")
        options = _csv_options(path) if path.suffix == ".csv" else {}
        return datasets.load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except InputError:
        raise
    except Exception as error:  # the many builders of datasets raise many kinds of error
        cause = error.__cause__ or error
        where = recipe.hub or root / place
        reason = (str(cause).splitlines() or ["it is empty"])[0].removesuffix(".")
        if any(words in reason for words in _NO_ROWS):
            reason = "it has no rows"
        raise InputError(
            f"{recipe.name}: cannot read {where} ({reason}); mend it, or point the recipe elsewhere."
        ) from error


def _csv_options(path: Path) -> dict[str, Any]:
    """Take every cell as the text it is: types are guessed otherwise, and ``01`` or ``None`` are no labels then."""
    text = datasets.Value("string")
    features = datasets.Features(dict.fromkeys(pd.read_csv(path, nrows=0).columns, text))
    return {"features": features, "keep_default_na": False}


def _indexed(rows: list[tuple[Text, str]], labels: tuple[str, ...], recipe: Recipe, split: str) -> Rows:
    index = {label: i for i, label in enumerate(labels)}
    for number, (_, label) in enumerate(rows, start=1):
        if label not in index:
            raise InputError(
                f"{recipe.name}: row {number} of the {split} split has the label {label!r}, which the recipe "
                f"does not list; add it under [labels] or mend the data."
            )
    return Rows([text for text, _ in rows], [index[label] for _, label in rows])
