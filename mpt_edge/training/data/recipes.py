"""Task recipes: TOML files that describe a task and its data.

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
may be a path into nested columns (``answers.text``), or a text with columns in braces
(``"question: {question} passage: {passage}"``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from mpt_edge._files import open_regular, user_path
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.head_types import find_head_type, head_type_names
from mpt_edge.formats.limits import text_problems
from mpt_edge.formats.taskfile import MIN_LENGTH, NAME, Inputs, Side

#: Size limit of a recipe in bytes, and the largest number in it. Recipes of 151 labels have 20 KB.
MAX_RECIPE, _MAX_NUMBER = 1 << 20, 2**31 - 1

#: Characters of a value in a message.
_MAX_SHOWN = 60

#: Hub ids; a path would lead to any folder of this machine.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

#: Default metric of recipes that generate text.
DEFAULT_TEXT_METRIC = "exact_match"

#: Entry ``template`` for the model's own chat template.
CHAT = "chat"

#: Metrics that compare numbers.
NUMBER_METRICS = ("pearson", "spearman")

_Member = TypeVar("_Member", bound=StrEnum)


@dataclass(frozen=True)
class Recipe:
    """A task as its TOML file describes it."""

    name: str
    """The task's name."""
    train: str
    """Training split: a file below the data folder, or a split of `hub`."""
    validation: str
    """Validation split, in the same form."""
    test: str | None = None
    """Test split, in the same form."""
    inputs: Inputs = Inputs.TEXT
    """One text, or a pair."""
    head_type: str | None = None
    """Name of the head type; None for the default of the backbone's family."""
    hub: str | None = None
    """Hub id of a data set."""
    config: str | None = None
    """Configuration of the hub data set."""
    text: str = "text"
    """Column of the text."""
    text_pair: str = "text_pair"
    """Column of the second text of a pair."""
    label: str = "label"
    """Column of the label."""
    target: str = "target"
    """Column of the text to generate; of a list, the first text is trained on and all are right."""
    references: str = "references"
    """Column of all right answers; a split without it has the target's."""
    template: str | None = None
    """Text with ``{text}`` and ``{text_pair}``, or `CHAT`; None for the input as it is."""
    system: str | None = None
    """Text of the system message of a chat; None for the chat template's own."""
    message: str | None = None
    """Text of the user's message in a chat, with ``{text}`` and ``{text_pair}``; None for the input as it is."""
    max_length: int = 64
    """Maximum input length in tokens."""
    max_target_length: int = 64
    """Maximum length of a generated text in tokens."""
    label_examples: int = 0
    """Number of typical training texts that are added to each label's texts."""
    metric: str = "accuracy"
    """Metric of the validation split; `load_recipe` has `DEFAULT_TEXT_METRIC` for tasks that generate text."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> its texts; empty to take the labels from the training split."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column -> the value of the rows to use."""
    version: int = 1
    """Release of the task; it rises with each, and a bundle refuses an older one."""
    license: str | None = None
    """License of the data."""
    source: str | None = None
    """Origin of the data."""
    truncation_side: Side = Side.RIGHT
    """Side on which a long text is cut."""
    stop: tuple[str, ...] = ()
    """Texts that end a generated text and are not part of it."""

    @property
    def is_chat(self) -> bool:
        """Whether the input is a message in the model's chat template."""
        return self.template == CHAT

    @property
    def text_template(self) -> str | None:
        """Template of the text, or of the message in a chat; None for the input as it is."""
        return self.message if self.is_chat else self.template

    @property
    def is_generation(self) -> bool:
        """Whether the task generates text instead of choosing among labels."""
        head_type = find_head_type(self.head_type)
        return head_type is not None and head_type.is_generative and not head_type.has_label_texts


_NUMBERS = ("max_length", "max_target_length", "label_examples", "version")
#: What TOML calls the types of values.
_TYPE_NAMES = {dict: "table", list: "array", str: "string", int: "integer"}
_TYPES = {"labels": dict, "where": dict, "stop": list, **dict.fromkeys(_NUMBERS, int)}
_REQUIRED = tuple(f.name for f in fields(Recipe) if f.default is MISSING and f.default_factory is MISSING)
_OPTIONAL = frozenset(f.name for f in fields(Recipe) if f.default is None)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, with or without a byte order mark.

    Raises:
        InputError: the file is missing, no TOML, or has an unknown, missing or unusable entry.
    """
    path = user_path(path)
    data = _read(path)
    try:
        entries = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it with that encoding.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}; correct the file.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise InputError(f"{path} is no recipe: it has an endless number or nesting; correct the file.") from error
    _check_entries(entries, path)
    recipe = _parse(entries, path)
    problem = next(_problems(recipe), None)
    if problem is not None:
        raise InputError(f"{path}: {problem}.")
    return recipe


def _read(path: Path) -> bytes:
    """Return a recipe's bytes. Raises InputError."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_RECIPE + 1)
    except CorruptFileError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot read the recipe {path} ({error.strerror}); check the path.") from error
    if len(data) > MAX_RECIPE:
        raise InputError(f"{path} has more than the {MAX_RECIPE:,} bytes that a recipe may have; shorten it.")
    return data


def _check_entries(entries: Mapping[str, Any], path: Path) -> None:
    """Check the names and types of entries. Raises InputError."""
    known = [f.name for f in fields(Recipe)]
    unknown = sorted(set(entries) - set(known))
    if unknown:
        raise InputError(f"{path}: unknown entry {unknown[0]!r}; known are {', '.join(known)}.")
    missing = [name for name in _REQUIRED if not entries.get(name)]
    if missing:
        raise InputError(f"{path}: the entry {missing[0]!r} is missing; add it.")
    for name, value in entries.items():
        expected = _TYPES.get(name, str)
        if not isinstance(value, expected) or isinstance(value, bool):
            shown = repr(value)[:_MAX_SHOWN]
            raise InputError(f"{path}: {name!r} must be of the type {_TYPE_NAMES[expected]}, not {shown}; correct it.")


def _parse(entries: Mapping[str, Any], path: Path) -> Recipe:
    """Return the recipe of entries that have the right types. Raises InputError."""
    # An empty text in an optional entry means that there is none.
    values = {name: value for name, value in entries.items() if name not in _OPTIONAL or value}
    values |= {
        "labels": {label: _texts(label, texts, path) for label, texts in entries.get("labels", {}).items()},
        "stop": tuple(entries.get("stop", ())),
        "inputs": _member(Inputs, entries.get("inputs", Recipe.inputs), "inputs", path),
        "truncation_side": _member(
            Side, entries.get("truncation_side", Recipe.truncation_side), "truncation_side", path
        ),
    }
    recipe = Recipe(**values)
    has_default = recipe.is_generation and "metric" not in entries
    return Recipe(**values, metric=DEFAULT_TEXT_METRIC) if has_default else recipe


def _problems(recipe: Recipe) -> Iterator[str]:
    """Yield problems of any recipe, each with its fix; objectives check those of their head type."""
    if NAME.fullmatch(recipe.name) is None:
        yield f"the name {recipe.name!r} is not allowed; use letters, digits, '.', '_' and '-'"
    if recipe.head_type is not None and find_head_type(recipe.head_type) is None:
        yield f"head_type {recipe.head_type!r} is unknown; use one of {', '.join(head_type_names())}, or leave it out"
    yield from _template_problems(recipe)
    for template in (recipe.text_template, recipe.system):
        for problem in text_problems(tuple(recipe.labels), tuple(recipe.labels.values()), template):
            yield f"{problem}; shorten the recipe"
    if len(recipe.labels) == 1:
        yield "one label is no choice; list at least two, or none to take them from the data"
    if not all(isinstance(text, str) and text for text in recipe.stop):
        yield f"'stop' must be a list of texts that are not empty, not {list(recipe.stop)!r}; correct it"
    if not all(isinstance(value, str) for value in recipe.where.values()):
        yield "the values under [where] must be texts; put them in quotes"
    if recipe.hub is not None and _HUB_ID.fullmatch(recipe.hub) is None:
        yield f"hub {recipe.hub!r} is no id of a data set; write owner/name, or name files with 'train'"
    yield from _number_problems(recipe)


def _template_problems(recipe: Recipe) -> Iterator[str]:
    parts, template = recipe.inputs.placeholders, recipe.text_template
    name = "message" if recipe.is_chat else "template"
    if template is not None and not all(part in template for part in parts):
        yield f"the {name} {template!r} lacks {' or '.join(parts)}; put it where the text goes"
    if recipe.is_chat and template is None and recipe.inputs is Inputs.PAIR:
        yield f"a pair is no message; add 'message' with {' and '.join(parts)}"
    for name in ("system", "message"):
        if getattr(recipe, name) is not None and not recipe.is_chat:
            yield f"{name!r} is part of a chat; add template = {CHAT!r}, or leave it out"


def _number_problems(recipe: Recipe) -> Iterator[str]:
    minima = {"max_length": MIN_LENGTH, "max_target_length": 1, "version": 1, "label_examples": 0}
    for name, minimum in minima.items():
        if getattr(recipe, name) < minimum:
            yield f"{name} must be at least {minimum}, not {getattr(recipe, name)}; correct it"
        if getattr(recipe, name) > _MAX_NUMBER:
            yield f"{name} must be at most {_MAX_NUMBER}; correct it"


def _texts(label: str, value: object, path: Path) -> tuple[str, ...]:
    """Return a label's texts. Raises InputError."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{path}: label {label!r} needs a text or a list of texts; correct it.")
    return tuple(str(text) for text in texts)


def _member(kind: type[_Member], value: str, name: str, path: Path) -> _Member:
    """Return a value as a member of an enumeration. Raises InputError."""
    if value not in list(kind):
        raise InputError(f"{path}: {name} {value!r} is unknown; use one of {', '.join(kind)}, or leave it out.")
    return kind(value)
