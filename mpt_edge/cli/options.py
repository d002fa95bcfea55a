"""GenerationKwargs that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleFolder = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", help="The bundle's folder.", show_default="$MPT_EDGE_BUNDLE, models/minilm-l6, ..."),
]

Precision = Annotated[
    str,
    typer.Option(
        metavar="float32|int8", help="Which graph to use, where the bundle has both.", show_default="float32 if there"
    ),
]
