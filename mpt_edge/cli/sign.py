"""`mpt-edge sign`: signatures of task files."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._files import atomic_write, read_small
from mpt_edge.cli.private_keys import PrivateKey, load_signer
from mpt_edge.errors import InputError
from mpt_edge.formats.signature import NEVER, today
from mpt_edge.formats.taskfile import MAX_TASK_BYTES

EPILOG = """
Example:

mpt-edge sign runs/mine/tasks/mine.safetensors --key release.pem --expires 2027-12-31
"""


def sign(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Task files.")],
    key: PrivateKey,
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Last day, in UTC, on which the files may be installed.", show_default=NEVER
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the signed files.", show_default="in place")
    ] = None,
) -> None:
    """Sign task files with an Ed25519 key, all or none; a signature that is there is replaced."""
    last = _last_day(expires)
    targets = [file if output is None else output / file.name for file in files]
    _check_different(targets)
    signer = load_signer(key)
    signed = [signer.sign_task(read_small(file, MAX_TASK_BYTES), str(file), last) for file in files]
    for target, data in zip(targets, signed, strict=True):
        with atomic_write(target) as temporary:
            temporary.write_bytes(data)
        typer.echo(f"signed {target} ({len(data):,} bytes) by {signer.public}")


def _last_day(expires: datetime | None) -> date | None:
    """Return the last day; refuse one that is over. Raises InputError."""
    last = None if expires is None else expires.replace(tzinfo=UTC).date()
    if last is not None and last < today():
        raise InputError(f"{last} is over, and nothing could be installed; pass a later day with --expires.")
    return last


def _check_different(targets: list[Path]) -> None:
    """Refuse files of one name for one folder. Raises InputError."""
    twice = next((path for path in targets if targets.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} would be written twice; sign files of the same name one after the other.")
