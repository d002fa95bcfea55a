"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
import importlib.util

from mpt_edge.errors import MissingExtraError


def look_for(extra: str, *modules: str) -> None:
    """Look for modules that an extra brings, without importing them: what a run needs at its end only.

    Raises:
        MissingExtraError: one is not installed; the message is the `pip install` line.
    """
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(name, extra)


def require(extra: str, *modules: str) -> None:
    """Import modules that an extra brings.

    Raises:
        MissingExtraError: one is not installed, or one that it needs.
    """
    look_for(extra, *modules)  # all of them before the first is imported, which may take seconds
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or name, extra) from error
