"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
import importlib.util

from mpt_edge.errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Import modules that an extra brings.

    Args:
        extra: its name.
        modules: the modules; of one within a package, the package must be imported to look.

    Raises:
        MissingExtraError: one is not installed; the message is the `pip install` line.
    """
    for name in modules:  # all are looked for before the first is imported, which may take seconds
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(name, extra)
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or name, extra) from error
