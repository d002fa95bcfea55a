"""Answers as columns: names, kinds and values, by the class of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import Enum, auto
from operator import attrgetter
from typing import Any

from mpt_edge.formats.head_types import find_head_type
from mpt_edge.inference.answers import Abstention, Answer, Embedding, Generation, Prediction, Span, Tagging
from mpt_edge.inference.heads.base import Head
from mpt_edge.inference.model import Model


class Kind(Enum):
    """Type of a column's values. In any of them a value may be missing."""

    TEXT = auto()
    NUMBER = auto()
    COUNT = auto()
    FLAG = auto()
    VECTOR = auto()
    """Float32 values, equally many in each row."""
    TOKENS = auto()
    """A list of tokens with their labels."""


#: Columns by name.
Schema = Mapping[str, Kind]

_Reader = tuple[Kind, Callable[[Any], Any]]

#: Values that each class of answers adds, with the names of `Answer.to_dict`.
_CONTENTS: Mapping[type[Answer], Mapping[str, _Reader]] = {
    Prediction: {
        "label": (Kind.TEXT, attrgetter("label")),
        "score": (Kind.NUMBER, attrgetter("score")),
        "abstain": (Kind.FLAG, attrgetter("abstain")),
    },
    Abstention: {
        "label": (Kind.TEXT, lambda _: None),
        "score": (Kind.NUMBER, attrgetter("confidence")),
        "abstain": (Kind.FLAG, lambda _: True),
    },
    Generation: {
        "output": (Kind.TEXT, attrgetter("text")),
        "input_tokens": (Kind.COUNT, attrgetter("input_tokens")),
        "new_tokens": (Kind.COUNT, attrgetter("new_tokens")),
        "finish": (Kind.TEXT, attrgetter("finish")),
        "first_token_seconds": (Kind.NUMBER, attrgetter("first_token_seconds")),
        "seconds": (Kind.NUMBER, attrgetter("seconds")),
    },
    Span: {
        "output": (Kind.TEXT, attrgetter("text")),
        "score": (Kind.NUMBER, attrgetter("score")),
        "start": (Kind.COUNT, attrgetter("start")),
        "end": (Kind.COUNT, attrgetter("end")),
    },
    Embedding: {"vector": (Kind.VECTOR, attrgetter("vector"))},
    Tagging: {"tokens": (Kind.TOKENS, lambda answer: [asdict(token) for token in answer.tokens])},
}

#: Values of answers of other classes, which extensions may register.
_SUMMARY: Mapping[str, _Reader] = {"answer": (Kind.TEXT, attrgetter("summary"))}

_FLAGS: Mapping[str, _Reader] = {
    "truncated": (Kind.FLAG, attrgetter("truncated")),
    "unknown": (Kind.FLAG, attrgetter("unknown")),
}

#: Name and kind of the column with the sentence of each row that has no answer.
ERROR = "error"


def answer_types(model: Model, task: str | None) -> list[type[Answer]]:
    """Return the classes of the answers of a task; for None, of all tasks of the bundle.

    They do not depend on rows, so that every batch of a data set gets the same columns.

    Raises:
        UnknownTaskError: the bundle has no such task.
        CorruptFileError: the file of a task is damaged.
    """
    files = [model.task(task).file] if task is not None else map(model.bundle.task, model.bundle.task_names)
    types = [find_head_type(file.head_type) for file in files]
    return list(dict.fromkeys(each.answer_type for each in types if each is not None and issubclass(each, Head)))


def schema_of(types: Iterable[type[Answer]]) -> dict[str, Kind]:
    """Return the columns of answers of some classes, whatever the order of the classes."""
    named = {name: kind for each in types for name, (kind, _) in _readers(each).items()}
    order = [name for readers in (*_CONTENTS.values(), _SUMMARY) for name in readers]
    return {name: named[name] for name in dict.fromkeys(order) if name in named} | {
        name: kind for name, (kind, _) in _FLAGS.items()
    }


def values_of(answers: Sequence[Answer | None], schema: Schema) -> dict[str, list[Any]]:
    """Return the values of each column, None where an answer is missing or has no such value; flags are False."""
    columns: dict[str, list[Any]] = {
        name: [False if kind is Kind.FLAG else None] * len(answers) for name, kind in schema.items()
    }
    for i, answer in enumerate(answers):
        if answer is not None:
            for name, (_, read) in {**_readers(type(answer)), **_FLAGS}.items():
                columns[name][i] = read(answer)
    return columns


def _readers(answer_type: type[Answer]) -> Mapping[str, _Reader]:
    return next((_CONTENTS[each] for each in answer_type.__mro__ if each in _CONTENTS), _SUMMARY)
