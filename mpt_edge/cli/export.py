"""`mpt-edge export`: a backbone, prompts and tasks become one bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mpt_edge._extras import require
from mpt_edge.formats.manifest import Precision
from mpt_edge.inference.loading import cache_bundle

EPILOG = """
Examples:

mpt-edge export minilm-l6 --output bundles/app   (with the shipped tasks)

mpt-edge export minilm-l6 --vectors runs/source --vectors runs/target --output bundles/small --precision int8
"""


class GraphPrecision(StrEnum):
    """Graphs of a bundle."""

    FLOAT32 = Precision.FLOAT32.value
    INT8 = Precision.INT8.value
    INT4 = Precision.INT4.value
    BOTH = "both"
    ALL = "all"


def export(
    backbone: Annotated[str, typer.Argument(help="Backbone: minilm-l6, a local folder, a GGUF file, or a hub id.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The bundle's folder.", show_default="the user's cache folder"),
    ] = None,
    vectors: Annotated[
        list[Path] | None, typer.Option(help="Folder of a training run, with prompts/ and tasks/; repeatable.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    precision: Annotated[
        GraphPrecision,
        typer.Option(
            help="Precision of the weights; int8 takes a quarter of the space, int4 less. "
            "both is float32 and int8; all is these and int4."
        ),
    ] = GraphPrecision.FLOAT32,
    pin_key: Annotated[
        list[str] | None,
        typer.Option(
            help="A public key that the bundle pins: one of them must have signed each task; repeatable.",
            show_default="those of the bundle that is replaced",
        ),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recipe of a task whose loss on validation is measured in int8 and int4, beside float32; repeatable."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder that the recipes' paths are relative to.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Export a frozen backbone to ONNX, with its shared prompts and tasks."""
    require("export", "torch", "transformers", "onnx", "onnxscript", "onnx_ir", "optimum.exporters.tasks")
    from mpt_edge_export.command import export_command

    export_command(
        backbone,
        output or cache_bundle(),
        vectors or [],
        revision=revision,
        force=force,
        precision=precision.value,
        pin_keys=pin_key or (),
        held_out=held_out or (),
        data=data,
    )
