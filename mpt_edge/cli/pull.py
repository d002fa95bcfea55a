"""`mpt-edge pull`: a bundle, or tasks alone, from a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpt_edge.cli.options import DigestOption
from mpt_edge.errors import InputError
from mpt_edge.formats.manifest import Precision

EPILOG = """
Examples:

mpt-edge pull owner/name --revision v2 --precision int8 --output bundles/app

mpt-edge pull owner/name --task sst2 --output .
"""

#: Folder of bundles below the current one, in which `mpt-edge run` looks for the default bundle.
_MODELS = Path("models")


def pull(
    repository: Annotated[str, typer.Argument(help="Repository of the hub: owner/name, or hf://owner/name@revision.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle's folder; of tasks, the folder above tasks/.",
            show_default="models/NAME; of tasks, the current folder",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default="main")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task to take alone, without a bundle; repeatable.")
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Only graphs of this precision.", show_default="all")
    ] = None,
    digest: DigestOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use the hub's cache alone, as HF_HUB_OFFLINE=1.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle with its installed tasks, or other task files.")
    ] = False,
) -> None:
    """Take a bundle from a model hub, or tasks alone; verified, and whole or not at all."""
    from mpt_edge.hub.client import be_quiet
    from mpt_edge.hub.pulling import pull_bundle, pull_tasks
    from mpt_edge.hub.repositories import Repository

    source = Repository.parse(repository, revision)
    be_quiet(source)
    if task:
        if precision is not None or digest is not None:
            raise InputError("--precision and --digest are those of a bundle; leave them out, or leave --task out.")
        for each in pull_tasks(source, task, output or Path(), offline=offline, force=force):
            typer.echo(f"pulled {each.file.name}, version {each.file.version}, at {each.commit} to {each.path}")
        return
    folder = output or _MODELS / source.id.partition("/")[2]
    pulled = pull_bundle(source, folder, precision=precision, digest=digest, offline=offline, force=force)
    typer.echo(
        f"pulled {source.id} at {pulled.commit} to {folder} ({pulled.files} files, {pulled.size:,} bytes; digest "
        f"{pulled.digest})"
    )
