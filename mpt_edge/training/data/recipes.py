"""Task recipes: one small TOML file says what a task reads, from where, and what it answers.

.. code-block:: toml

    name = "sst2"
    train = "sst2/train.jsonl"          # JSONL, CSV or Parquet, below the data folder
    validation = "sst2/validation.jsonl"
    test = "sst2/test.jsonl"
    license = "unstated"

    [labels]                            # optional: label -> the text (or texts) that stand for it
    negative = "a negative review"
    positive = "a positive review"

With ``hub = "owner/name"`` the three entries name splits of a hub data set instead of files. A column
may be a path into nested ones (``answers.text``), or text with several of them in braces
(``"question: {question} passage: {passage}"``), which is put together when the data is read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import NAME
from mpt_edge.inference.masking import PLACEHOLDER

#: What a recipe may be scored by; a task file states all that its kind has.
METRICS = ("accuracy", "macro_f1", "matthews")

#: The same for a recipe that generates text; see `mpt_edge.training.objectives.text_metrics`.
TEXT_METRICS = ("exact_match", "f1", "bleu", "rouge_l", "pearson", "spearman")

#: What a recipe that generates text is scored by where it states nothing.
DEFAULT_TEXT_METRIC = "exact_match"

#: Those of them that need answers to be numbers.
NUMBER_METRICS = ("pearson", "spearman")

#: Fewest tokens that ``max_length`` may be.
MIN_LENGTH = 3

KINDS = ("classification", "pair", "generation")


@dataclass(frozen=True)
class Recipe:
    """A task as its TOML file states it.

    Attributes:
        name: the task's name.
        train: file below the data folder, or split of ``hub``.
        validation: likewise.
        test: likewise; may be empty.
        kind: ``"classification"``, ``"pair"`` or ``"generation"``.
        hub: hub id of a data set, or empty.
        config: configuration of the hub data set, or empty.
        text: column of the text.
        text_pair: column of the second text of a pair.
        label: column of the label.
        target: column of the text to generate; a list gives several right answers, the first to train on.
        where: column -> the value that rows must have to be taken.
        references: column of all right answers, where a split has one; else the target's.
        template: text with ``{text}`` and ``{text_pair}``, or empty.
        max_length: longest input in tokens.
        max_target_length: longest text to generate, in tokens.
        cut: side that a text which is too long loses, ``"right"`` or ``"left"``; not of tasks that answer by
            similarity, which read a text from its beginning.
        stop: texts that end a text to generate, and are no part of it.
        label_examples: typical training texts of each label that join its label texts.
        readout: for encoders ``"similarity"``, which empty stands for too, or ``"mask"``: the likeliest of the
            labels' words, one token each, at ``{mask}`` in the template.
        metric: what validation is scored by: one of `METRICS`, or of `TEXT_METRICS` where text is generated;
            `load_recipe` takes `DEFAULT_TEXT_METRIC` there where none is stated.
        labels: label -> its texts; empty to take the labels from the training split.
        version: number that grows with each release of the task; a bundle does not go back to a lower one.
        license: license of the data.
        source: where the data comes from.
    """

    name: str
    train: str
    validation: str
    test: str = ""
    kind: str = "classification"
    hub: str = ""
    config: str = ""
    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    target: str = "target"
    references: str = "references"
    template: str = ""
    max_length: int = 64
    max_target_length: int = 64
    label_examples: int = 0
    readout: str = ""
    metric: str = "accuracy"
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    license: str = ""
    source: str = ""
    # Shown where they are set alone (`fitting`), so that checkpoints from before there were such entries still fit.
    cut: str = field(default="right", repr=False)
    stop: tuple[str, ...] = field(default=(), repr=False)

    def fitting(self) -> dict[str, Any]:
        """Return what is stated of `cut` and `stop`, as task files have it."""
        found: dict[str, Any] = {} if self.cut == "right" else {"cut": self.cut}
        return found | ({"stop": list(self.stop)} if self.stop else {})


_NUMBERS = ("max_length", "max_target_length", "label_examples", "version")
_TYPES = {"labels": dict, "where": dict, "stop": list, **dict.fromkeys(_NUMBERS, int)}


def load_recipe(path: Path) -> Recipe:
    """Read one recipe.

    Raises:
        InputError: the file is missing, no TOML, or has an unknown, missing or unusable entry.
    """
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read the recipe {path} ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}; correct the file.") from error
    return _checked(entries, path)


def _checked(entries: dict[str, Any], path: Path) -> Recipe:
    known = {f.name: f for f in fields(Recipe)}
    unknown = sorted(set(entries) - set(known))
    if unknown:
        raise InputError(f"{path}: unknown entry {unknown[0]!r}; known are {', '.join(known)}.")
    missing = [name for name in ("name", "train", "validation") if not entries.get(name)]
    if missing:
        raise InputError(f"{path}: the entry {missing[0]!r} is missing; add it.")
    for name, value in entries.items():
        expected = _TYPES.get(name, str)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise InputError(f"{path}: {name!r} must be a {expected.__name__}, not {value!r}; correct it.")
    labels = entries.get("labels", {})
    stop = tuple(entries.get("stop", ()))
    if not all(isinstance(text, str) and text for text in stop):
        raise InputError(f"{path}: 'stop' must be a list of texts that are not empty, not {list(stop)!r}; correct it.")
    given = {"labels": {k: _texts(k, v, path) for k, v in labels.items()}, "stop": stop}
    metric = {"metric": DEFAULT_TEXT_METRIC} if entries.get("kind") == "generation" else {}
    recipe = Recipe(**(metric | entries | given))
    if not all(isinstance(value, str) for value in recipe.where.values()):
        raise InputError(f"{path}: the values under [where] must be texts; put them in quotes.")
    for problem in _problems(recipe):
        raise InputError(f"{path}: {problem}.")
    return recipe


def _problems(recipe: Recipe) -> list[str]:
    """Return what is wrong with entries that have the right types, each with its fix."""
    parts = ["{text}", "{text_pair}"] if recipe.kind == "pair" else ["{text}"]
    metrics = TEXT_METRICS if recipe.kind == "generation" else METRICS
    found = {
        f"the name {recipe.name!r} is not allowed; use letters, digits, '.', '_' and '-'": NAME.fullmatch(recipe.name)
        is None,
        f"kind {recipe.kind!r} is unknown; use one of {', '.join(KINDS)}": recipe.kind not in KINDS,
        f"metric {recipe.metric!r} is unknown; use one of {', '.join(metrics)}": recipe.metric not in metrics,
        f"the template {recipe.template!r} lacks {' or '.join(parts)}; put it where the text goes": bool(
            recipe.template
        )
        and not all(part in recipe.template for part in parts),
        f"readout {recipe.readout!r} is unknown; use similarity or mask, or leave it out": recipe.readout
        not in ("", "similarity", "mask"),
        f"readout 'mask' needs the template to have {PLACEHOLDER} once, as in '{{text}} It was {PLACEHOLDER}.'": (
            recipe.readout == "mask" and recipe.template.count(PLACEHOLDER) != 1
        ),
        "readout 'mask' reads words at a mask; leave label_examples out": recipe.readout == "mask"
        and recipe.label_examples > 0,
        "a task that generates text has no readout; leave it out": recipe.kind == "generation" and bool(recipe.readout),
        "one label is no choice; list at least two, or none to take them from the data": len(recipe.labels) == 1,
        "a task that generates text has no labels; leave [labels] out": recipe.kind == "generation"
        and bool(recipe.labels),
        f"cut {recipe.cut!r} is unknown; use right or left, or leave it out": recipe.cut not in ("right", "left"),
        "stop ends a text that is generated, and this task writes none; leave it out": recipe.kind != "generation"
        and bool(recipe.stop),
        f"max_length must be at least {MIN_LENGTH}, max_target_length and version 1, label_examples 0; correct it": (
            recipe.max_length < MIN_LENGTH
            or min(recipe.max_target_length, recipe.version) < 1
            or recipe.label_examples < 0
        ),
    }
    return [problem for problem, is_there in found.items() if is_there]


def _texts(label: str, value: object, path: Path) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{path}: label {label!r} needs a text or a list of texts; correct it.")
    return tuple(str(text) for text in texts)
