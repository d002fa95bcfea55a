"""Options of `mpt-edge run` for models that write text, and text that appears as it is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mpt_edge.errors import InputError
from mpt_edge.model import Model
from mpt_edge.text import Text
from mpt_edge.writing import TextModel

MaxNewTokens = Annotated[int | None, typer.Option(help="Longest text to write, in tokens.", show_default="the task's")]
Temperature = Annotated[float | None, typer.Option(help="Above 0, tokens are drawn.", show_default="0")]
TopK = Annotated[int | None, typer.Option(help="Draw from this many likeliest tokens.", show_default="all")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens up to this.", show_default="1")]
NumBeams = Annotated[int | None, typer.Option(help="Texts followed side by side.", show_default="1")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1, words come back less often.", show_default="1")]
Seed = Annotated[int | None, typer.Option(help="Fixes what is drawn.", show_default="0")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the text; repeatable.", show_default="the task's")]


def options_for(model: Model | TextModel, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given.

    Raises:
        InputError: there are some, and the model writes no text.
    """
    found = {name: value for name, value in given.items() if value not in (None, [])}
    if found and isinstance(model, Model):
        option = next(iter(found)).replace("_", "-")
        raise InputError(f"the tasks of {model.bundle.folder} write no text; leave --{option} out.")
    return found


def may_stream(
    model: Model | TextModel, texts: Sequence[str] | None, task: str | None, options: dict[str, Any]
) -> bool:
    """Return whether one text is to be written for someone who watches."""
    if not isinstance(model, TextModel) or task is None or not texts or len(texts) != 1:
        return False
    selected = model.task(task)
    beams = options.get("num_beams") or selected.file.generation.get("num_beams", 1)
    return selected.file.readout == "generation" and beams == 1


def stream(model: TextModel, text: Text, task: str, options: dict[str, Any]) -> None:
    """Print a text as it is written."""
    for piece in model.task(task).stream(text, **options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
