"""What a recipe calls a column: a name, a path into nested columns, or text with several of them."""

from __future__ import annotations

import re
from typing import Any

import datasets

_BRACES = re.compile(r"\{([\w.-]+)\}")


def roots(entry: str) -> list[str]:
    """Return the data's columns that an entry needs."""
    paths = _BRACES.findall(entry) or [entry]
    return [path.partition(".")[0] for path in paths]


def column(table: datasets.Dataset, entry: str) -> list[Any]:
    """Return an entry's value in every row.

    ``answers.text`` looks into nested columns, ``"question: {question} passage: {passage}"`` puts
    columns into a text. A column named like the entry itself comes first.
    """
    if entry in table.column_names:
        return list(table[entry])
    if _BRACES.search(entry) is None:
        return [_inner(value, entry) for value in table[roots(entry)[0]]]
    columns = {path: column(table, path) for path in _BRACES.findall(entry)}
    filled = []
    for i in range(len(table)):
        values = {path: as_text(found[i]) for path, found in columns.items()}
        filled.append(_BRACES.sub(lambda match, values=values: values[match[1]], entry))  # type: ignore[misc]
    return filled


def _inner(value: Any, path: str) -> Any:
    for key in path.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def as_text(value: Any) -> str:
    """Return a value as it stands in a text: lists with commas, numbers with one decimal, nothing for None."""
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else as_name(value)


def as_name(value: Any) -> str:
    """Return a value as a label: booleans as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)
