"""Import optional dependencies where they are used."""

from __future__ import annotations

import importlib
import importlib.util

from mpt_edge.errors import MissingExtraError


def check_installed(extra: str, *modules: str, before: str = "") -> None:
    """Check that an extra's modules are installed, without importing them.

    Args:
        extra: the extra's name.
        modules: the modules.
        before: start of the error's sentence.

    Raises:
        MissingExtraError: one is not installed; the message is the `pip install` line.
    """
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(name, extra, before)


def require(extra: str, *modules: str, before: str = "") -> None:
    """Import the modules of an extra; see `check_installed`.

    Raises:
        MissingExtraError: a module, or one that it needs, is not installed.
    """
    check_installed(extra, *modules, before=before)  # all of them before the first import, which may take seconds
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or name, extra, before) from error
