"""Private keys of the commands that sign, and their passphrases."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mpt_edge.errors import InputError
from mpt_edge.formats.signing import Signer

#: Environment variable with the passphrase of a private key.
PASSPHRASE = "MPT_EDGE_KEY_PASSPHRASE"  # noqa: S105 - a name

PrivateKey = Annotated[Path, typer.Option("--key", help="The private key, in PEM.", show_default=False)]


def load_signer(path: Path) -> Signer:
    """Read a private key; its passphrase, if it has one, comes from the environment or the terminal."""
    return Signer.load(path, lambda: _passphrase(path))


def new_passphrase(*, is_requested: bool) -> str | None:
    """Return the passphrase for a new key: from the environment, or from the terminal if it is requested."""
    given = os.environ.get(PASSPHRASE)
    if given or not is_requested:
        return given or None
    _check_terminal("choose a passphrase")
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _passphrase(path: Path) -> str:
    given = os.environ.get(PASSPHRASE)
    if given:
        return given
    _check_terminal(f"ask for the passphrase of {path}")
    return str(typer.prompt(f"Passphrase of {path}", hide_input=True, err=True))


def _check_terminal(purpose: str) -> None:
    """Refuse to ask where nobody can answer. Raises InputError."""
    if not sys.stdin.isatty():
        raise InputError(f"there is no terminal to {purpose}; set {PASSPHRASE}.")
