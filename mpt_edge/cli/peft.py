"""`mpt-edge import peft` and `mpt-edge export-peft`: adapters become tasks, and tasks become adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._console import PlainConsole, PlainTable
from mpt_edge._extras import require
from mpt_edge.cli.options import BundleFolder, Commands, TaskVersion
from mpt_edge.cli.output import note
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.loading import default_bundle

_EPILOG = """
Examples:

mpt-edge import peft reviews --backbone my-bert --task film=0 --task book=2 --label bad --label good --output vectors

mpt-edge import peft owner/adapter --backbone owner/base-model --output vectors   (all task ids, from the hub)
"""

app = Commands(help="Import prompts and tasks that other libraries trained.", no_args_is_help=True)


@app.callback()
def _imports() -> None:
    """Import prompts and tasks that other libraries trained."""


@app.command("peft", epilog=_EPILOG)
def import_peft(
    adapter: Annotated[str, typer.Argument(help="Folder or hub id of a PEFT adapter.", show_default=False)],
    backbone: Annotated[
        str, typer.Option(help="The adapter's base model: minilm-l6, a local folder, a GGUF file, or a hub id.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for prompts/ and tasks/, or a bundle to install into.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="NAME=ID: a name for a task id of the adapter; repeatable.", show_default="all ids"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the shared prompt.", show_default="the adapter's")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A label of the head, in order, or a text that a generative model may choose; repeatable."),
    ] = None,
    pair: Annotated[bool, typer.Option("--pair", help="The tasks read pairs of texts.")] = False,
    max_length: Annotated[
        int, typer.Option(min=3, help="Maximum input length in tokens; longer texts are truncated.")
    ] = 128,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens of generated text.", show_default="64")
    ] = None,
    license: Annotated[str | None, typer.Option(help="License of the training data.")] = None,
    task_version: TaskVersion = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub adapter.")] = None,
) -> None:
    """Import multitask prompt tuning or plain prompt tuning from PEFT, bit for bit."""
    require("export", "torch", "transformers")
    from mpt_edge_export.peft.command import import_command, task_ids
    from mpt_edge_export.peft.importing import ImportOptions

    options = ImportOptions(
        tasks=task_ids(task or []),
        name=name,
        labels=tuple(label or ()),
        inputs=Inputs.PAIR if pair else Inputs.TEXT,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        license=license,
        version=task_version or 1,
    )
    imported = import_command(adapter, backbone, output, options, revision=revision)
    for warning in imported.warnings:
        note(warning)
    table = PlainTable("task", "id", "head type", "labels", "contents")
    for file in imported.tasks:
        table.row(file.name, file.training["task_id"], file.head_type, len(file.labels), file.contents)
    PlainConsole().print(table)
    typer.echo(f"written to {output}")


def export_peft(
    task: Annotated[
        list[str],
        typer.Option(help="A task to export; repeatable. Their order gives the task ids.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The adapter's folder.")],
    bundle: BundleFolder = None,
    fold: Annotated[
        bool, typer.Option("--fold", help="Write each task as plain prompt tuning, with its composed prompt.")
    ] = False,
    base_model: Annotated[
        str | None, typer.Option(help="Name by which PEFT loads the base model.", show_default="the backbone's id")
    ] = None,
) -> None:
    """Export tasks to PEFT, as one multitask adapter or as plain prompt tuning."""
    require("export", "torch", "transformers")
    from mpt_edge_export.peft.exporting import export_adapter

    opened = Bundle.open(bundle or default_bundle())
    for warning in export_adapter(opened, task, output, fold=fold, base_model=base_model):
        note(warning)
    typer.echo(f"written to {output}")
