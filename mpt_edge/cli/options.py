"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpt_edge.formats.manifest import Precision

BundleFolder = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", help="The bundle's folder.", show_default="$MPT_EDGE_BUNDLE, models/minilm-l6, ..."),
]

PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Graph to use, if the bundle has both.", show_default="float32, if there"),
]

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of one request.", show_default="automatic")]
