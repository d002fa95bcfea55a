"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Precision = Annotated[
    str,
    typer.Option(
        metavar="float32|int8", help="Which graph to use, where the bundle has both.", show_default="float32 if there"
    ),
]
