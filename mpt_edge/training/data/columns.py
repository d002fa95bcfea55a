"""Columns of a recipe: names, paths into nested columns, and text with columns in braces."""

from __future__ import annotations

import re
from typing import Any, Protocol

_BRACES = re.compile(r"\{([\w.-]+)\}")


class Columns(Protocol):
    """Table whose columns can be read."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def column(self, name: str) -> list[Any]:
        """Return a column's value in each row."""


def roots(entry: str) -> list[str]:
    """Return the data's columns that a recipe's entry needs."""
    paths = _BRACES.findall(entry) or [entry]
    return [path.partition(".")[0] for path in paths]


def column(table: Columns, entry: str) -> list[Any]:
    """Return an entry's value in each row.

    ``answers.text`` is a path into nested columns. ``"question: {question} passage: {passage}"``
    puts columns into a text. A column with the entry itself as its name comes first.
    """
    if entry in table.columns:
        return table.column(entry)
    if _BRACES.search(entry) is None:
        return [_inner(value, entry) for value in table.column(roots(entry)[0])]
    columns = {path: column(table, path) for path in _BRACES.findall(entry)}
    texts = []
    for i in range(len(table)):
        values = {path: as_text(cells[i]) for path, cells in columns.items()}
        texts.append(_BRACES.sub(lambda match, values=values: values[match[1]], entry))  # type: ignore[misc]
    return texts


def _inner(value: Any, path: str) -> Any:
    for key in path.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def as_text(value: Any) -> str:
    """Format a value for a text: lists with commas, numbers with one decimal, None as nothing."""
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else as_name(value)


def as_name(value: Any) -> str:
    """Format a value as a label: booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
