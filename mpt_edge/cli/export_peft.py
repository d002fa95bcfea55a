"""`mpt-edge export-peft`: tasks of a bundle become an adapter that PEFT loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._extras import require
from mpt_edge.cli.options import BundleFolder
from mpt_edge.formats.bundle import Bundle
from mpt_edge.locate import default_bundle


def export_peft(
    task: Annotated[
        list[str],
        typer.Option(help="A task to export; repeatable, their order gives the task ids.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The adapter's folder.")],
    bundle: BundleFolder = None,
    fold: Annotated[
        bool, typer.Option("--fold", help="Write each task's composed prompt as plain prompt tuning.")
    ] = False,
    base_model: Annotated[str, typer.Option(help="What PEFT loads the base model by.")] = "",
) -> None:
    """Write tasks as a PEFT adapter, multitask or folded into plain prompt tuning."""
    require("export", "torch", "transformers")
    from mpt_edge_export.peft.exporting import export_adapter

    opened = Bundle.open(bundle or default_bundle())
    for warning in export_adapter(opened, task, output, fold=fold, base_model=base_model):
        typer.echo(f"mpt-edge: {warning}", err=True)
    typer.echo(f"written to {output}")
