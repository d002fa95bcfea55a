"""Import optional dependencies where they are used."""

from __future__ import annotations

import importlib
import importlib.util

from mpt_edge.errors import MissingExtraError


def check_installed(extra: str, *modules: str) -> None:
    """Check that an extra's modules are installed, without importing them.

    Raises:
        MissingExtraError: one is not installed; the message is the `pip install` line.
    """
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(name, extra)


def require(extra: str, *modules: str) -> None:
    """Import the modules of an extra.

    Raises:
        MissingExtraError: a module, or one that it needs, is not installed.
    """
    check_installed(extra, *modules)  # all of them before the first import, which may take seconds
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or name, extra) from error
