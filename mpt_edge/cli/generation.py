"""Generation options of `mpt-edge run`, and text that appears as it is generated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from mpt_edge.cli import streams
from mpt_edge.cli.output import note
from mpt_edge.cli.table import printable
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationKwargs, GenerationOptions
from mpt_edge.formats.taskfile import Side
from mpt_edge.inference.answers import Answer, Stream
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.heads.text_generation import TextGeneration
from mpt_edge.inference.model import Model
from mpt_edge.inference.task import Task
from mpt_edge.inference.text import Text

MaxNewTokens = Annotated[int | None, typer.Option(help="Maximum tokens of generated text.", show_default="the task's")]
Temperature = Annotated[
    float | None, typer.Option(help="Sampling temperature; 0 takes the likeliest token.", show_default="0")
]
TopK = Annotated[int | None, typer.Option(help="Sample from the K likeliest tokens.", show_default="all")]
TopP = Annotated[
    float | None,
    typer.Option(help="Sample from the likeliest tokens of this total probability.", show_default="1"),
]
NumBeams = Annotated[int | None, typer.Option(help="Beam width.", show_default="1")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Penalty on repeated tokens; 1 is none.", show_default="1")
]
Seed = Annotated[int | None, typer.Option(help="Random seed.", show_default="0")]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="Stop before this text; repeatable. For a line break: --stop $'\\n'.", show_default="the task's"),
]


def options_for(model: Model, given: GenerationKwargs, task: str | None) -> GenerationKwargs:
    """Return the options that were given.

    Raises:
        InputError: there are some, and the model or the task of all rows generates no text.
        UnknownTaskError: there is no such task.
    """
    values = {name: value for name, value in given.items() if value not in (None, [])}
    option = next(iter(values), "").replace("_", "-")
    if values and not isinstance(model, GenerativeModel):
        raise InputError(f"the tasks of {model.bundle.folder} generate no text; leave --{option} out.")
    if values and task is not None and not isinstance(model.task(task).head, TextGeneration):
        raise InputError(f"{task!r} chooses a label and generates no text; leave --{option} out.")
    if values:
        GenerationOptions.parse(values)  # impossible values fail before any row is read
    options = cast("GenerationKwargs", values)
    _note_unused_sampling(model, options, task)
    return options


def _note_unused_sampling(model: Model, options: GenerationKwargs, task: str | None) -> None:
    given = [name for name in ("seed", "top_k", "top_p") if name in options]
    own = model.task(task).file.generation.get("temperature", 0.0) if task is not None else 0.0
    if given and not options.get("temperature", own):
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        note(f"nothing is sampled without --temperature; {names} {'do' if len(given) > 1 else 'does'} nothing.")


def streamed_task(model: Model, texts: Sequence[str] | None, task: str | None) -> Task[Any] | None:
    """Return the task if it generates text for a single input, which is then streamed; else None."""
    if task is None or not texts or len(texts) != 1:
        return None
    selected = model.task(task)
    return selected if isinstance(selected.head, TextGeneration) else None


def print_stream(task: Task[Any], text: Text, options: GenerationKwargs) -> None:
    """Print a text as it is generated; beam search knows its text only at the end."""
    file = streams.for_generated_text(sys.stdout)
    beams = options.get("num_beams") or task.file.generation.get("num_beams", 1)
    if beams > 1:
        answer = task(text, **options)
        source: Answer | Stream = answer
        file.write(printable(answer.text, file))
    else:
        source = stream = task.stream(text, **options)
        for piece in stream:
            file.write(printable(piece, file))
            file.flush()
    file.write("\n")
    file.flush()
    if source.truncated:
        side = "beginning" if task.file.truncation_side is Side.LEFT else "end"
        note(f"the text is too long for {task.name!r}; its {side} was left out.")
    if source.unknown:
        note(f"the tokenizer knows no token of the text for {task.name!r}, so the answer says nothing about it.")
