"""Examples of a task: texts with their labels, or with the texts to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mpt_edge.errors import InputError
from mpt_edge.formats.limits import text_problems
from mpt_edge.formats.records import Number
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.text import Encoded, Text, TextEncoder, render, validate_text
from mpt_edge.training.data.columns import as_name, as_text, column, roots
from mpt_edge.training.data.recipes import NUMBER_METRICS, Recipe
from mpt_edge.training.data.tables import Table, read_table


@dataclass(frozen=True)
class Examples:
    """The examples of one split, in the order of the data."""

    texts: list[Text]
    """Input of each example."""
    labels: list[int]
    """Index of each example's label; empty for tasks that generate text."""
    references: list[tuple[str, ...]] = field(default_factory=list)
    """Right answers of each example, for tasks that generate text; the first is trained on."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)

    def take(self, chosen: NDArray[np.int64]) -> Examples:
        """Return examples by index, in the order of the data."""
        kept = np.sort(chosen).tolist()
        return Examples(
            [self.texts[i] for i in kept],
            [self.labels[i] for i in kept] if self.labels else [],
            [self.references[i] for i in kept] if self.references else [],
        )

    def sample(self, count: int) -> Examples:
        """Return at most ``count`` examples, the same in each call, in the order of the data.

        Each label keeps its share: files are often sorted by label, so the first examples would have
        few of the labels.
        """
        if len(self) <= count:
            return self
        order = np.random.default_rng(0).permutation(len(self))
        if self.labels:
            order = order[np.argsort(np.array(self.labels)[order], kind="stable")]
        # Evenly spaced indices give each run of equal labels its share, rounded up or down.
        spaced = ((np.arange(count) + 0.5) * len(self) / count).astype(np.int64)
        return self.take(order[spaced])

    def head(self, count: int) -> Examples:
        """Return the first examples."""
        return Examples(self.texts[:count], self.labels[:count], self.references[:count])


@dataclass(frozen=True)
class TaskData:
    """A recipe with its labels and the examples of its splits."""

    recipe: Recipe
    labels: tuple[str, ...]
    """Names of the labels, in the order of their indices; empty for tasks that generate text."""
    train: Examples
    validation: Examples
    test: Examples | None
    """None if the test split was not read."""


def encode(encoder: TextEncoder, recipe: Recipe, texts: Sequence[Text], max_length: int) -> list[Encoded]:
    """Fill the recipe's template and tokenize, as the device does."""
    return encoder.encode([render(recipe.text_template, text) for text in texts], max_length)


def load_task(recipe: Recipe, root: Path, *, test: bool = False) -> TaskData:
    """Read a recipe's splits.

    Args:
        recipe: the task.
        root: folder that the recipe's paths start from.
        test: whether to read the test split.

    Raises:
        InputError: a file, column or label is missing, or a split is empty.
    """
    splits = ["train", "validation", *(["test"] if test and recipe.test else [])]
    if recipe.is_generation:
        read = {split: _generation_examples(recipe, split, root) for split in splits}
        return TaskData(recipe, (), read["train"], read["validation"], read.get("test"))
    rows = {split: _labeled_rows(recipe, split, root) for split in splits}
    labels = tuple(recipe.labels) or tuple(sorted({label for _, label in rows["train"]}))
    for problem in text_problems(labels, (), None):
        raise InputError(f"{recipe.name}: {problem}; name another column as the label.")
    if len(labels) < 2:
        raise InputError(f"{recipe.name}: the training split has one label; a choice needs at least two.")
    read = {split: _index_labels(rows[split], labels, recipe, split) for split in splits}
    return TaskData(recipe, labels, read["train"], read["validation"], read.get("test"))


def few_shot(data: TaskData, shots: int, seed: int) -> TaskData:
    """Return a task with ``shots`` training examples per label, and at most as many for validation.

    Tasks that generate text have no labels, and get ``shots`` examples in all. A label with fewer
    validation examples keeps all of them. The test split stays whole.

    Args:
        data: the task with all its examples.
        shots: examples per label.
        seed: random seed of the choice.

    Raises:
        InputError: a label has fewer training examples than ``shots``.
    """
    rng = np.random.default_rng(seed)
    if data.recipe.is_generation:
        if len(data.train) < shots:
            raise InputError(
                f"{data.recipe.name}: there are {len(data.train)} training examples, fewer than {shots}; lower --shots."
            )
        drawn = [rng.permutation(len(split))[:shots] for split in (data.train, data.validation)]
        return replace(data, train=data.train.take(drawn[0]), validation=data.validation.take(drawn[1]))
    counts = np.bincount(data.train.labels, minlength=len(data.labels))
    if counts.min() < shots:
        label = data.labels[int(counts.argmin())]
        raise InputError(
            f"{data.recipe.name}: the label {label!r} has {counts.min()} training examples, fewer than {shots}; "
            "lower --shots or add examples."
        )
    train, validation = (_draw_per_label(split, shots, rng) for split in (data.train, data.validation))
    return replace(data, train=train, validation=validation)


def _draw_per_label(examples: Examples, count: int, rng: np.random.Generator) -> Examples:
    """Draw up to ``count`` examples of each label."""
    labels = np.array(examples.labels)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:count] for label in np.unique(labels)]
    return examples.take(np.concatenate(drawn))


def _labeled_rows(recipe: Recipe, split: str, root: Path) -> list[tuple[Text, str]]:
    """Return the texts and label names of a split. Raises InputError."""
    table = read_table(recipe, split, root, [*_text_entries(recipe), recipe.label])
    rows: list[tuple[Text, str]] = []
    for i, (text, label) in enumerate(zip(_texts(recipe, table, split), column(table, recipe.label), strict=True)):
        if label in (None, ""):
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split has no label; give it one or drop it.")
        rows.append((text, as_name(label)))
    return rows


def _index_labels(rows: list[tuple[Text, str]], labels: tuple[str, ...], recipe: Recipe, split: str) -> Examples:
    """Return examples with label indices instead of names. Raises InputError."""
    index = {label: i for i, label in enumerate(labels)}
    for number, (_, label) in enumerate(rows, start=1):
        if label not in index:
            raise InputError(
                f"{recipe.name}: row {number} of the {split} split has the label {label!r}, which the recipe "
                f"does not list; add it under [labels] or mend the data."
            )
    return Examples([text for text, _ in rows], [index[label] for _, label in rows])


def _generation_examples(recipe: Recipe, split: str, root: Path) -> Examples:
    """Return the examples of a task that generates text. Raises InputError."""
    table = read_table(recipe, split, root, [*_text_entries(recipe), recipe.target])
    texts = _texts(recipe, table, split)
    entry = recipe.references if roots(recipe.references)[0] in table.columns else recipe.target
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
    return Examples(texts, [], references)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _text_entries(recipe: Recipe) -> list[str]:
    """Return the recipe's entries of the columns that make up an input."""
    return [recipe.text, recipe.text_pair] if recipe.inputs is Inputs.PAIR else [recipe.text]


def _texts(recipe: Recipe, table: Table, split: str) -> list[Text]:
    """Return the input of each row. Raises InputError."""
    columns = [column(table, entry) for entry in _text_entries(recipe)]
    texts: list[Text] = []
    for i, parts in enumerate(zip(*columns, strict=True)):
        try:
            if number := next((part for part in parts if isinstance(part, Number)), None):
                raise InputError(f"there is {number} where a text belongs; write it as a string.")
            texts.append(validate_text(parts if recipe.inputs is Inputs.PAIR else parts[0], recipe.inputs))
        except InputError as error:
            raise InputError(f"{recipe.name}: row {i + 1} of the {split} split: {error}") from error
    return texts
