"""Tables of a recipe's splits, from local files or the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mpt_edge._extras import require
from mpt_edge.errors import InputError
from mpt_edge.formats.parquet import read_parquet
from mpt_edge.formats.records import (
    SUFFIXES,
    BadRecord,
    Format,
    RecordReader,
    check_unique,
    read_json_list,
)
from mpt_edge.training.data.columns import as_name, roots
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.hub import check_cache

#: Number of columns that a message shows.
_MAX_SHOWN = 80

#: Suffixes of local files. Lines of text have no labels.
_SUFFIXES = (*(suffix for suffix, form in SUFFIXES.items() if form is not Format.TEXT), ".json", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows of a split, with values as the file spells them."""

    rows: Sequence[Mapping[str, Any]]

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of their first occurrence."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """Return a column's value in each row; None in rows without it."""
        return [row.get(name) for row in self.rows]


def read_table(recipe: Recipe, split: str, root: Path, entries: Sequence[str]) -> Table:
    """Read one split, with at least one row and all columns that the recipe names.

    Args:
        recipe: the task.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        root: folder that the recipe's paths start from.
        entries: the recipe's entries of the columns to read.

    Raises:
        InputError: the file or a column is missing, a row cannot be read, or no row is left.
        MissingExtraError: the package that reads the hub or the format is not installed.
    """
    used = [*(name for entry in entries for name in roots(entry)), *recipe.where]
    place = getattr(recipe, split)
    try:
        table = _load_hub(recipe, place) if recipe.hub else Table(_load_file(_inside(root, place), used))
    except InputError as error:
        raise InputError(f"{recipe.name}: {error}") from error
    for name in used:
        if table.rows and name not in table.columns:
            raise InputError(
                f"{recipe.name}: the {split} split has no column {name!r} (it has "
                f"{', '.join(table.columns[:_MAX_SHOWN])}); name the right one in the recipe."
            )
    for name, expected in recipe.where.items():
        table = Table([row for row in table.rows if as_name(row.get(name)) == expected])
    if not table.rows:
        raise InputError(f"{recipe.name}: the {split} split is empty; point the recipe at rows.")
    return table


def _inside(root: Path, place: str) -> Path:
    """Return the path of a recipe's file. Raises InputError for one that leads out of the data folder.

    Links in the folder are followed: who made the folder put them there, and a recipe cannot.
    """
    parts = [part for kind in (PurePosixPath, PureWindowsPath) for part in kind(place).parts]
    if "\0" in place or ".." in parts or any(kind(place).anchor for kind in (PurePosixPath, PureWindowsPath)):
        raise InputError(
            f"{place!r} leads out of the data folder; name a file below it, and pass the folder with --data."
        )
    return root / place


def _load_file(path: Path, used: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a local file. Raises InputError."""
    if not path.is_file():
        raise InputError(f"no file {path}; check the recipe, or pass the folder with --data.")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"cannot read {path.name}; use {', '.join(_SUFFIXES)}.")
    if suffix == ".parquet":
        return read_parquet(path)
    try:
        if suffix == ".json" and _starts_with_list(path):
            return read_json_list(path)
        with path.open("rb") as stream:
            return _records(RecordReader(stream, str(path), SUFFIXES.get(suffix, Format.JSONL)), used)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); check the path and its permissions.") from error


def _records(reader: RecordReader, used: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for record in reader:
        if isinstance(record, BadRecord):
            raise InputError(record.message)
        if not rows:
            check_unique(reader.header, used, reader.name)
        rows.append(record.values)
    return rows


def _starts_with_list(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _load_hub(recipe: Recipe, split: str) -> Table:
    """Load a split of the recipe's hub data set. Raises InputError."""
    require("train", "datasets")
    check_cache()
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(recipe.hub, recipe.config, split=split)
    except Exception as error:  # each of the many builders of datasets raises errors of its own
        cause = error.__cause__ or error
        reason = (str(cause).splitlines() or ["it is empty"])[0].removesuffix(".")
        raise InputError(
            f"cannot read {recipe.hub} ({reason}); check the name, or point the recipe elsewhere."
        ) from error
    labels = {name: kind for name, kind in loaded.features.items() if isinstance(kind, datasets.ClassLabel)}
    return Table([row | {name: kind.int2str(row[name]) for name, kind in labels.items()} for row in loaded])
