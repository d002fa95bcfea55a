"""`mpt-edge keys`: make, show and rotate the keys that sign tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._files import atomic_write, read_small
from mpt_edge.cli.options import BundleFolder, Commands
from mpt_edge.cli.output import note
from mpt_edge.cli.private_keys import PASSPHRASE, PrivateKey, load_signer, new_passphrase
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.key_rotation import MAX_ROTATION_BYTES, KeyRotation, PinnedKeys, sequence_now
from mpt_edge.formats.signing import Signer
from mpt_edge.inference.loading import default_bundle

app = Commands(help="Make, show, pin and rotate the keys that sign tasks.", no_args_is_help=True)

ROTATE_EPILOG = """
Example:

mpt-edge keys rotate --key old.pem --new-key ed25519:... --output rotation.json
"""

PIN_EPILOG = """
Example:

mpt-edge keys pin ed25519:... --bundle bundles/app
"""

PublicKeys = Annotated[
    list[str], typer.Argument(metavar="KEY...", help="Public keys, as `mpt-edge keys show` prints them.")
]

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
        int | None,
        typer.Option(min=0, help="Number that rises with each rotation.", show_default="time in milliseconds"),
    ] = None,
) -> None:
    """Sign, with a pinned key, a document that replaces the pinned keys of bundles."""
    pinned = PinnedKeys.of(new_key, sequence_now() if sequence is None else sequence)
    rotation = load_signer(key).rotate(pinned)
    with atomic_write(output) as temporary:
        temporary.write_text(rotation.to_json(), "utf-8")
    typer.echo(f"wrote rotation {pinned.sequence} to {', '.join(pinned.keys)} into {output}")


@app.command("list")
def list_(bundle: BundleFolder = None) -> None:
    """Print the keys that a bundle pins, one a line; nothing where it pins none."""
    pinned = _open(bundle).manifest.keys
    for key in pinned.keys if pinned else ():
        typer.echo(key)


@app.command(epilog=PIN_EPILOG)
def pin(
    keys: PublicKeys,
    bundle: BundleFolder = None,
    sequence: Annotated[
        int | None, typer.Option(min=0, help="Number that rotations must exceed.", show_default="time in milliseconds")
    ] = None,
) -> None:
    """Pin keys in a bundle: from now on it takes no task that none of them signed."""
    opened = _open(bundle)
    pinned = opened.pin(keys, sequence=sequence)
    typer.echo(f"{opened.folder} pins {', '.join(pinned.keys)}")


@app.command()
def unpin(keys: PublicKeys, bundle: BundleFolder = None) -> None:
    """Stop to trust keys that a bundle pins; with none left, it takes tasks without a signature."""
    opened = _open(bundle)
    pinned = opened.unpin(keys)
    typer.echo(f"{opened.folder} pins {', '.join(pinned.keys) if pinned else 'no keys'}")


@app.command()
def apply(
    rotation: Annotated[Path, typer.Argument(help="A file that `mpt-edge keys rotate` wrote.", show_default=False)],
    bundle: BundleFolder = None,
) -> None:
    """Replace a bundle's keys by those of a rotation that one of them signed."""
    opened = _open(bundle)
    refused = opened.rotate(KeyRotation.parse(read_small(rotation, MAX_ROTATION_BYTES), str(rotation)))
    if refused:
        note(f"none of the new keys signed {', '.join(refused)}; install them again, signed by one.")
    typer.echo(f"{opened.folder} pins {', '.join(opened.manifest.keys.keys if opened.manifest.keys else ())}")


def _open(folder: Path | None) -> Bundle:
    return Bundle.open(folder or default_bundle())
