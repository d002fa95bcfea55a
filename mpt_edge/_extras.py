"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib

from mpt_edge.errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Import modules that an extra brings.

    Raises:
        MissingExtraError: one is not installed; the message is the `pip install` line.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or name, extra) from error
