"""Arguments of calls, checked where they are given: texts, names of tasks, and numbers."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Set
from numbers import Integral
from typing import Any

import numpy as np

from mpt_edge.errors import InputError


def is_single(texts: object) -> bool:
    """Whether an argument is one input: a text, a pair of texts, or no iterable at all."""
    return isinstance(texts, str | bytes | tuple) or not isinstance(texts, Iterable)


def text_list(texts: object) -> list[Any]:
    """Return a list, an array, a column of a table or a generator as a list of texts, which are not checked.

    Raises:
        InputError: it is a single text, or it has no order or no one text an item.
    """
    if isinstance(texts, str):
        raise InputError("the texts are one text; pass a list of texts.")
    if isinstance(texts, bytes | bytearray):
        raise InputError("the texts are bytes; decode them, and pass a list of texts.")
    is_unordered = isinstance(texts, Mapping | Set) and not isinstance(texts, KeysView)
    if is_unordered or hasattr(texts, "columns") or not isinstance(texts, Iterable):
        raise InputError(f"the texts are a {type(texts).__name__}; pass a list of texts, or one column of a table.")
    if isinstance(texts, np.ndarray):
        if texts.ndim not in (1, 2):
            raise InputError(f"the texts are an array of {texts.ndim} axes; pass one axis, or two for pairs.")
        return list(texts.tolist())  # a row of two axes is a pair
    return list(texts)


def inputs_of(texts: object) -> list[Any]:
    """Return the inputs of a call that takes one or many; see `is_single`."""
    return [texts] if is_single(texts) else text_list(texts)


def task_names(tasks: object, count: int) -> list[str]:
    """Return the name of each text's task.

    Raises:
        InputError: they are no names, or not one for each text.
    """
    if isinstance(tasks, str):
        return [check_name(tasks)] * count
    if isinstance(tasks, bytes | Mapping | Set) or not isinstance(tasks, Iterable):
        raise InputError(f"the tasks are a {type(tasks).__name__}; pass one task's name, or a list with one a text.")
    names = [check_name(name) for name in tasks]
    if len(names) != count:
        raise InputError(f"{count} texts but {len(names)} tasks; pass one task, or one for each text.")
    return names


def check_name(name: object) -> str:
    """Return a task's name. Raises InputError for other objects."""
    if not isinstance(name, str):
        raise InputError(f"a task is named by a str, not by {_short(name)}; pass a name such as 'sst2'.")
    return str(name)


def check_count(value: object, noun: str) -> int:
    """Return a number of 1 or more. Raises InputError for others, named by ``noun``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"a {noun} of {_short(value)} is not possible; pass 1 or more.")
    return int(value)


def check_class(value: object, base: type) -> None:
    """Refuse a value that is no subclass of ``base``. Raises InputError."""
    if not isinstance(value, type) or not issubclass(value, base):
        raise InputError(f"answers is {_short(value)}; pass a class of answers, such as mpt_edge.Prediction.")


def check_text(text: object, noun: str) -> str:
    """Return a text. Raises InputError for other objects, named by ``noun``."""
    if not isinstance(text, str):
        raise InputError(f"the {noun} is {_short(text)}; pass a str.")
    return text


def _short(value: object) -> str:
    """Return a value as a message shows it."""
    return repr(value)[:40]
