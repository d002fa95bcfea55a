"""Sources of task files as arguments: paths, addresses and files of a hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._files import user_path
from mpt_edge.errors import InputError
from mpt_edge.formats.remote import check_sha256, fetched, is_remote


def _expand(sources: list[str]) -> list[str]:
    """Replace the ``~`` of paths before anything is opened or fetched. Raises InputError."""
    return [source if is_remote(source) else str(user_path(source)) for source in sources]


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        callback=_expand,
        help="Task files: paths, https addresses, or hf://owner/name@revision/path.",
        show_default=False,
    ),
]

Sha256 = Annotated[
    str | None, typer.Option("--sha256", help="SHA-256 that the file must have, in hex.", show_default=False)
]


@contextmanager
def local_files(sources: Sequence[str], sha256: str | None = None) -> Iterator[list[Path]]:
    """Yield the paths of some sources; what is not on this machine is fetched first, and deleted afterwards.

    Args:
        sources: paths and addresses.
        sha256: SHA-256 that the one file must have.

    Raises:
        InputError: a hash is given for several files, or an address does not give its file.
        CorruptFileError: the file has another hash, or is too large.
    """
    if sha256 is not None and len(sources) != 1:
        raise InputError("--sha256 is the hash of one file; install the others in commands of their own.")
    with ExitStack() as stack:
        paths = [stack.enter_context(fetched(each)) if is_remote(each) else Path(each) for each in sources]
        if sha256 is not None:
            check_sha256(paths[0], sha256, sources[0])
        yield paths
