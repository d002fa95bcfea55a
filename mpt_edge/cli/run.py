"""`mpt-edge run`: texts in, labels out."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

import mpt_edge
from mpt_edge.cli import generation
from mpt_edge.cli.options import BundleFolder, Precision
from mpt_edge.cli.output import JsonLines, answers_in, note
from mpt_edge.cli.rows import STDIN, BadRow, Columns, Format, Row, Source, format_of, from_arguments, from_stream
from mpt_edge.cli.table import Table
from mpt_edge.errors import InputError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.model import Model

EPILOG = """
Examples:

mpt-edge run --task sst2 "a gorgeous, witty film"

mpt-edge run --task same "He left." --pair "He went away."   (a task of your own that reads pairs)

mpt-edge run --task sst2 --input reviews.csv --text-column review --output labels.jsonl

cat questions.txt | mpt-edge run --task trec --json

Rows of a file may name their own task in a column "task". Standard input is answered each --batch-size rows.

In JSON, "text" is the input and "output" is the text that a model wrote.
"""

#: Rows read, answered and written at once.
WINDOW = 512

_STDIN = Path("-")
Write = Callable[[Sequence[Row], Sequence[Prediction]], None]


class OnError(StrEnum):
    """What to do about a row that cannot be used."""

    STOP = "stop"
    SKIP = "skip"


def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="One or more texts to answer.", show_default=False)
    ] = None,
    *,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Task for every row without a task column.")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", "-i", help="Rows: .jsonl, .ndjson, .csv or .txt; - is standard input.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write JSON lines to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")] = False,
    bundle: BundleFolder = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a single TEXT, for a task of pairs.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="Column of the second text.", show_default="text_pair, if there")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Format of the rows.", show_default="by suffix; stdin: text")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most rows in one run of the model.")] = 32,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to ONNX Runtime.")] = 0,
    precision: Precision = "",
    on_error: Annotated[OnError, typer.Option(help="Stop at a row that cannot be used, or skip it.")] = OnError.STOP,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress bar.")] = False,
    max_new_tokens: generation.MaxNewTokens = None,
    temperature: generation.Temperature = None,
    top_k: generation.TopK = None,
    top_p: generation.TopP = None,
    num_beams: generation.NumBeams = None,
    repetition_penalty: generation.RepetitionPenalty = None,
    seed: generation.Seed = None,
    stop: generation.Stop = None,
) -> None:
    """Run tasks on texts given here, in a file, or on standard input."""
    given: GenerationKwargs = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": num_beams,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop,
    }
    columns = Columns(text_column, pair_column)
    _check_usage(texts, source, pair, of_rows=columns != Columns() or form is not None)
    with ExitStack() as stack:
        rows, stream = _open_source(texts, pair=pair, path=source, form=form, columns=columns, stack=stack)
        model = mpt_edge.load(bundle, precision=precision, threads=threads)
        options = generation.options_for(model, given, task)
        if task is not None:
            model.task(task)
        elif texts or _format(source, form) is Format.TEXT:
            raise InputError("no task is named; pass --task NAME, and see `mpt-edge tasks list` for the names.")
        if output is None and not as_json and (watched := generation.watched(model, texts, task)):
            (item,) = rows.rows
            generation.write(watched, _ready(model, rows, item, task, options).text, options)
            return
        write = _writer(model, output, as_json, stream, stack)
        shown = not no_progress and _may_show_bar(source, stream, output)
        advance = stack.enter_context(_bar(stream if shown else None))
        window = _window(model, stream, batch_size)
        _Runner(model, rows, task, batch_size, window, on_error, write, advance, options).run()


@dataclass
class _Runner:
    """Reads, answers and writes rows, a window at a time."""

    model: Model
    source: Source
    task: str | None
    batch_size: int
    window: int
    on_error: OnError
    write: Write
    advance: Callable[[int], None]
    options: GenerationKwargs
    rows: int = 0
    skipped: int = 0

    def run(self) -> None:
        """Answer all rows; what comes before a row that stops the run is written first."""
        ready: list[Row] = []
        for item in self.source.rows:
            self.rows += 1
            try:
                ready.append(_ready(self.model, self.source, item, self.task, self.options))
            except MptEdgeError as error:
                if isinstance(error, InputError) and self.on_error is OnError.SKIP:
                    self._skip(str(error))
                    continue
                self._flush(ready)
                if isinstance(error, InputError) and self.source.name:
                    raise InputError(str(error).removesuffix(".") + "; or pass --on-error skip.") from error
                raise
            if len(ready) == self.window:
                self._flush(ready)
                ready = []
        self._flush(ready)
        if self.skipped:
            note(f"skipped {self.skipped:,} of {self.rows:,} rows.")
        if not self.rows:
            if self.source.name != STDIN:  # a command in front of a pipe may well have nothing to say
                raise InputError(f"{self.source.name} holds no rows; write one row a line, behind a header in CSV.")
            note(f"{STDIN} holds no rows.")
            self.write((), ())

    def _flush(self, ready: Sequence[Row]) -> None:
        if ready:
            texts, tasks = [row.text for row in ready], [row.task or "" for row in ready]
            self.write(ready, self.model.run(texts, tasks=tasks, batch_size=self.batch_size, **self.options))
        self.advance(self.source.position())

    def _skip(self, message: str) -> None:
        self.skipped += 1
        if self.skipped == 1:  # the others are counted at the end
            note(f"skipping a row: {message}")


def _ready(model: Model, source: Source, item: Row | BadRow, task: str | None, options: GenerationKwargs) -> Row:
    """Return a row with its task, its own or ``task``, checked. Raises InputError."""
    if isinstance(item, BadRow):
        raise InputError(item.message)
    place = source.place(item.number)
    name = item.task or task
    if name is None:
        raise InputError(f'{place} names no task; pass --task NAME, or give the row a "task" entry.')
    try:
        kind = model.task(name).kind
        if kind == "pair" and isinstance(item.text, str):
            where = "name its column with --pair-column" if source.name else "pass it with --pair"
            raise InputError(f"{name!r} reads pairs, but there is no second text; {where}.")
        if kind != "pair" and not isinstance(item.text, str):
            raise InputError(f"{name!r} reads single texts, but there is a second text; leave it out.")
        return Row(model.check(item.text, name, **options), name, item.number)
    except (InputError, UnknownTaskError) as error:
        raise InputError(f"{place}: {error}") from error


def _check_usage(texts: list[str] | None, source: Path | None, pair: str | None, *, of_rows: bool) -> None:
    """Refuse what does not go together; ``of_rows`` says that an option for rows of a file or a pipe is given."""
    if texts and source is not None:
        raise InputError("there are both TEXT and --input; pass one of them.")
    if texts and of_rows:
        raise InputError(
            "--text-column, --pair-column and --format are for rows of a file; leave them out beside TEXT."
        )
    if pair is not None and not texts:
        raise InputError("--pair goes with one TEXT; for rows of a file, name a column with --pair-column.")
    if not texts and source is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("there is nothing to read; pass a TEXT, or --input FILE, or pipe lines into the command.")


def _format(source: Path | None, form: Format | None) -> Format:
    if form is not None:
        return form
    return Format.TEXT if source in (None, _STDIN) else format_of(source or _STDIN)


def _open_source(
    texts: list[str] | None,
    *,
    pair: str | None,
    path: Path | None,
    form: Format | None,
    columns: Columns,
    stack: ExitStack,
) -> tuple[Source, BinaryIO | None]:
    if texts:
        return from_arguments(texts, pair), None
    found = _format(path, form)
    if path is None or path == _STDIN:
        return from_stream(sys.stdin.buffer, STDIN, found, columns), sys.stdin.buffer
    stream = stack.enter_context(path.open("rb"))
    return from_stream(stream, str(path), found, columns), stream


def _status(stream: BinaryIO | None) -> os.stat_result | None:
    """Return the status of the file behind a stream; None if it is no regular file."""
    try:
        status = os.fstat(stream.fileno()) if stream is not None else None
    except OSError:  # a stream in memory has no file number
        return None
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def _window(model: Model, stream: BinaryIO | None, batch_size: int) -> int:
    """Return how many rows are read before the first is answered: few if someone waits, or if each takes long."""
    if stream is not None and _status(stream) is None and stream.isatty():
        return 1
    at_once = (stream is None or _status(stream) is not None) and not isinstance(model, GenerativeModel)
    return max(WINDOW, batch_size) if at_once else batch_size


def _writer(model: Model, output: Path | None, as_json: bool, stream: BinaryIO | None, stack: ExitStack) -> Write:
    if output is None:
        if as_json:
            return JsonLines(sys.stdout, numbered=stream is not None)
        return Table(model, sys.stdout).write
    status = _status(stream)
    if status is not None and output.exists() and os.path.samestat(status, output.stat()):
        raise InputError(f"{output} is the file that is read; name another with --output.")
    return stack.enter_context(answers_in(output, numbered=stream is not None))


def _may_show_bar(path: Path | None, stream: BinaryIO | None, output: Path | None) -> bool:
    if path is None or path == _STDIN or _status(stream) is None or not sys.stderr.isatty():
        return False
    return output is not None or not sys.stdout.isatty()


@contextmanager
def _bar(stream: BinaryIO | None) -> Iterator[Callable[[int], None]]:
    """Show how much of a file has been read; show nothing where there is none."""
    status = _status(stream)
    if status is None:
        yield lambda _: None
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("reading", total=status.st_size)
        yield lambda position: bar.update(row, completed=position)
