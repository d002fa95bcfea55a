"""`mpt-edge keys`: make, show and rotate the keys that sign tasks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._files import atomic_write
from mpt_edge.cli.options import Commands
from mpt_edge.cli.private_keys import PASSPHRASE, PrivateKey, load_signer, new_passphrase
from mpt_edge.formats.key_rotation import PinnedKeys
from mpt_edge.formats.signing import Signer

app = Commands(help="Make, show, pin and rotate the keys that sign tasks.", no_args_is_help=True)

ROTATE_EPILOG = """
Example:

mpt-edge keys rotate --key old.pem --new-key ed25519:... --output rotation.json
"""

KeyFile = Annotated[Path, typer.Argument(help="A private key, in PEM.", show_default=False)]


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="KEY", help="The private key's new file, in PEM.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help=f"Encrypt it; asks for a passphrase, or takes ${PASSPHRASE}.")
    ] = False,
) -> None:
    """Make a key pair: write the private key, readable by this user alone, and print the public key."""
    typer.echo(Signer.create(path, new_passphrase(is_requested=passphrase)).public)


@app.command()
def show(path: KeyFile) -> None:
    """Print the public key of a private key."""
    typer.echo(load_signer(path).public)


@app.command(epilog=ROTATE_EPILOG)
def rotate(
    key: PrivateKey,
    new_key: Annotated[
        list[str], typer.Option(help="A public key to pin in place of the old ones; repeatable.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The rotation's file.")],
    sequence: Annotated[
        int | None, typer.Option(min=0, help="Number that rises with each rotation.", show_default="time in seconds")
    ] = None,
) -> None:
    """Sign, with a pinned key, a document that replaces the pinned keys of bundles."""
    pinned = PinnedKeys.of(new_key, int(time.time()) if sequence is None else sequence)
    rotation = load_signer(key).rotate(pinned)
    with atomic_write(output) as temporary:
        temporary.write_text(rotation.to_json(), "utf-8")
    typer.echo(f"wrote rotation {pinned.sequence} to {', '.join(pinned.keys)} into {output}")
