"""Generation options of `mpt-edge run`, and text that appears as it is generated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from mpt_edge._files import user_path
from mpt_edge.batch.rows import InputRow
from mpt_edge.cli import streams
from mpt_edge.cli.output import note
from mpt_edge.cli.table import printable
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import CONSTRAINTS, MAX_CONSTRAINT, GenerationKwargs, GenerationOptions
from mpt_edge.formats.taskfile import Side
from mpt_edge.inference.answers import Answer, Generation, Stream
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


JsonSchema = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|TEXT", help="JSON schema of the generated text, in a file or here.", show_default="the task's"
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(help="Regular expression that the whole generated text matches.", show_default="the task's"),
]


def schema_text(given: str) -> str:
    """Return the JSON schema that an option states, or the content of the file that it names.

    Raises:
        InputError: the file is no text, or too large.
    """
    if given.lstrip().startswith("{"):
        return given
    try:
        with user_path(given).open(encoding="utf-8") as file:
            return file.read(MAX_CONSTRAINT + 1)  # what is longer is refused as any schema
    except UnicodeDecodeError as error:
        raise InputError(f"{given} is no text in UTF-8; pass a JSON schema.") from error


class Unfinished:
    """Count of the texts that ended by their length before they matched a schema or an expression."""

    def __init__(self, model: Model, options: GenerationKwargs) -> None:
        """Count none yet."""
        self._model, self._options = model, options
        self._count = self._texts = 0

    def counting(self, write: Callable[[Sequence[InputRow], Sequence[Answer]], None]) -> Any:
        """Return a writer that counts, too."""

        def write_counted(rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
            write(rows, answers)
            self._add(answers)

        return write_counted

    def check(self, answers: Sequence[Answer] = ()) -> None:
        """Raise InputError if there were some, among them further ``answers``."""
        self._add(answers)
        if self._count:
            some = "the text" if self._texts == 1 else f"{self._count:,} of {self._texts:,} texts"
            raise InputError(
                f"{some} reached the maximum of new tokens before matching the schema or expression; raise "
                "--max-new-tokens."
            )

    def _add(self, answers: Sequence[Answer]) -> None:
        self._texts += len(answers)
        self._count += sum(isinstance(each, Generation) and self._is_cut(each) for each in answers)

    def _is_cut(self, answer: Generation) -> bool:
        own = self._model.task(answer.task).file.generation
        return answer.finish == "length" and bool(CONSTRAINTS & {*self._options, *own})


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


def print_stream(task: Task[Any], text: Text, options: GenerationKwargs) -> Answer:
    """Print a text as it is generated, and return it; beam search knows its text only at the end."""
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
    whole = source.answer if isinstance(source, Stream) else source
    assert whole is not None  # after the last piece
    return whole
