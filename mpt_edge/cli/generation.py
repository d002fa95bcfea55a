"""GenerationKwargs of `mpt-edge run` for models that write text, and text that appears as it is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from mpt_edge.cli.output import note
from mpt_edge.cli.table import shown
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationKwargs, GenerationOptions
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.model import Model, Task
from mpt_edge.inference.text import Text

MaxNewTokens = Annotated[int | None, typer.Option(help="Longest text to write, in tokens.", show_default="the task's")]
Temperature = Annotated[float | None, typer.Option(help="Above 0, tokens are drawn.", show_default="0")]
TopK = Annotated[int | None, typer.Option(help="Draw from this many likeliest tokens.", show_default="all")]
TopP = Annotated[
    float | None,
    typer.Option(help="Draw only from the likeliest tokens whose probabilities add up to this.", show_default="1"),
]
NumBeams = Annotated[
    int | None, typer.Option(help="Beams: texts followed side by side, of which the best is kept.", show_default="1")
]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1, words come back less often.", show_default="1")]
Seed = Annotated[int | None, typer.Option(help="Fixes what is drawn.", show_default="0")]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        help="Stop writing before this text; repeatable. A newline: --stop $'\\n'.", show_default="the task's"
    ),
]


def options_for(model: Model, given: GenerationKwargs, task: str | None) -> GenerationKwargs:
    """Return the options that were given.

    Raises:
        InputError: there are some, and the model or the task of all rows writes no text.
        UnknownTaskError: there is no such task.
    """
    found = {name: value for name, value in given.items() if value not in (None, [])}
    option = next(iter(found), "").replace("_", "-")
    if found and not isinstance(model, GenerativeModel):
        raise InputError(f"the tasks of {model.bundle.folder} write no text; leave --{option} out.")
    if found and task is not None and model.task(task).file.readout != "generation":
        raise InputError(f"{task!r} chooses a label and writes no text; leave --{option} out.")
    if found:
        GenerationOptions.of(found)  # what is wrong whatever the task says, before any row is read
    options = cast("GenerationKwargs", found)
    _note_what_is_not_drawn(model, options, task)
    return options


def _note_what_is_not_drawn(model: Model, options: GenerationKwargs, task: str | None) -> None:
    given = [name for name in ("seed", "top_k", "top_p") if name in options]
    own = model.task(task).file.generation.get("temperature", 0.0) if task is not None else 0.0
    if given and not options.get("temperature", own):
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        note(f"nothing is drawn without --temperature; {names} {'do' if len(given) > 1 else 'does'} nothing.")


def watched(model: Model, texts: Sequence[str] | None, task: str | None) -> Task | None:
    """Return the task, where it writes and is asked for a single text, which someone then watches; else None."""
    if task is None or not texts or len(texts) != 1:
        return None
    selected = model.task(task)
    return selected if selected.file.readout == "generation" else None


def write(task: Task, text: Text, options: GenerationKwargs) -> None:
    """Print a text as it is written; beams know theirs only at the end."""
    beams = options.get("num_beams") or task.file.generation.get("num_beams", 1)
    if beams > 1:
        answer = task(text, **options)
        sys.stdout.write(shown(answer.label, sys.stdout))
        truncated = answer.truncated
    else:
        stream = task.stream(text, **options)
        truncated = stream.truncated
        for piece in stream:
            sys.stdout.write(shown(piece, sys.stdout))
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if truncated:
        side = "beginning" if task.file.cut == "left" else "end"
        print(f"mpt-edge: the text is too long for {task.name!r}; its {side} was left out.", file=sys.stderr)
