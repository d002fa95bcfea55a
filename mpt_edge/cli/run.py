"""`mpt-edge run`: texts in, answers out."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO

import typer

from mpt_edge.batch.answer_columns import answer_types, schema_of
from mpt_edge.batch.json_answers import JsonLines
from mpt_edge.batch.parquet_answers import ParquetAnswers
from mpt_edge.batch.parquet_rows import from_parquet
from mpt_edge.batch.part_worker import PartWorker
from mpt_edge.batch.preparing import Preparer
from mpt_edge.batch.rows import STDIN, TASK_COLUMN, Columns, InputRow, InputRows, format_of, from_arguments, from_stream
from mpt_edge.batch.shared_model import ModelSettings
from mpt_edge.batch.windows import WINDOW, Window, windows, windows_ahead
from mpt_edge.cli import generation
from mpt_edge.cli.job import PART_ROWS, Engine, check_job_usage, run_job
from mpt_edge.cli.options import BundleFolder, DigestOption, PrecisionOption, Threads
from mpt_edge.cli.output import answers_in, note, parquet_in
from mpt_edge.cli.table import AnswerTable
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.records import PARQUET_SUFFIX, BadRecord, Format
from mpt_edge.inference.answers import Answer, Prediction
from mpt_edge.inference.loading import default_bundle, open_model
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.session import SessionOptions

EPILOG = """
Examples:

mpt-edge run --task sst2 "a gorgeous, witty film"

mpt-edge run --task same "He left." --pair "He went away."   (a task of your own that reads pairs)

mpt-edge run --task sst2 --input reviews.csv --text-column review --output labels.jsonl

cat questions.txt | mpt-edge run --task trec --json

mpt-edge run --task sst2 --input reviews/ --engine ray --output answers/   (goes on where it was killed)

Rows of a file may name their task in a column "task". Standard input is answered in batches of --batch-size rows.

In JSON lines, "text" is the input, and "output" is a generated text.
"""

_STDIN = Path("-")
Write = Callable[[Sequence[InputRow], Sequence[Answer]], None]


class OnError(StrEnum):
    """Reaction to a row that cannot be answered."""

    STOP = "stop"
    SKIP = "skip"


def run(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="One or more texts to answer.", show_default=False)
    ] = None,
    *,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task of the texts, or of rows that name none.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="Rows: .jsonl, .ndjson, .csv, .txt or .parquet; - is standard input."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write JSON lines, or Parquet by its suffix, to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")] = False,
    bundle: BundleFolder = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a single TEXT, for tasks that read pairs.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    pair_column: Annotated[
        str | None, typer.Option(help="Column of the second text.", show_default="text_pair, if there")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Format of the rows.", show_default="by suffix; stdin: text")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum rows in one run of the model.")] = 32,
    threads: Threads = None,
    precision: PrecisionOption = None,
    digest: DigestOption = None,
    on_error: Annotated[
        OnError, typer.Option(help="For a row that cannot be answered: stop, or skip it.")
    ] = OnError.STOP,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="Withhold labels whose score is below the task's threshold.")
    ] = False,
    answer_prefix: Annotated[
        str, typer.Option(help="Start of the names of answer columns in Parquet.", show_default="none")
    ] = "",
    engine: Annotated[
        Engine | None,
        typer.Option(help="Answer a file or a folder of files in parts, here or on Ray; --output is a folder."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of Ray.", show_default="one on every CPU")] = None,
    part_rows: Annotated[int, typer.Option(min=1, help="Maximum rows of a part.")] = PART_ROWS,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Show no progress bar.")] = False,
    max_new_tokens: generation.MaxNewTokens = None,
    temperature: generation.Temperature = None,
    top_k: generation.TopK = None,
    top_p: generation.TopP = None,
    num_beams: generation.NumBeams = None,
    repetition_penalty: generation.RepetitionPenalty = None,
    seed: generation.Seed = None,
    stop: generation.Stop = None,
    json_schema: generation.JsonSchema = None,
    regex: generation.Regex = None,
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
        "json_schema": None if json_schema is None else generation.schema_text(json_schema),
        "regex": regex,
    }
    columns = Columns(text_column, pair_column)
    if engine is not None:
        if abstain:
            raise InputError(
                "--abstain is for one file or text; leave it out, and read the column abstain of the parts."
            )
        inputs, folder = check_job_usage(source, output, has_texts=bool(texts), as_json=as_json)
        settings = ModelSettings.of(bundle, precision=precision, threads=threads or 1, digest=digest)
        worker = PartWorker(settings, task, columns, on_error is OnError.SKIP, batch_size, answer_prefix)
        has_bar = not no_progress and sys.stderr.isatty()
        run_job(
            worker, given, engine=engine, source=inputs, form=form, output=folder, part_rows=part_rows,
            workers=workers, bar=lambda size: _bar(size if has_bar else None),
        )  # fmt: skip
        return
    if workers is not None or part_rows != PART_ROWS:
        raise InputError("--workers and --part-rows are for parts; pass --engine local or ray, or leave them out.")
    _check_usage(texts, source, pair, has_row_options=columns != Columns() or form is not None)
    with ExitStack() as stack:
        rows, stream = _open_rows(texts, pair=pair, path=source, form=form, columns=columns, stack=stack)
        is_file = _status(stream) is not None
        model = _load(bundle or default_bundle(), digest, precision, threads=threads, is_bulk=is_file)
        options = generation.options_for(model, given, task)
        if task is not None:
            model.task(task)
        elif texts or _format(source, form) is Format.TEXT:
            raise InputError("no task is named; pass --task NAME, and see `mpt-edge tasks list` for the names.")
        if output is None and not as_json and (streamed := generation.streamed_task(model, texts, task)):
            (row,) = rows.rows
            answer = generation.print_stream(streamed, _single_text(row), options)
            generation.Unfinished(model, options).check([answer])
            return
        parquet = ParquetLayout(task, rows.schema, answer_prefix)
        write = _writer(model, output, as_json, stream, parquet, stack)
        write = _withholding(write) if abstain else write
        unfinished = generation.Unfinished(model, options)
        write = unfinished.counting(write)
        has_bar = not no_progress and _may_show_bar(source, stream, output)
        status = _status(stream) if has_bar else None
        advance = stack.enter_context(_bar(status and status.st_size))
        preparer = Preparer(model, rows, task, options)
        read = windows_ahead if is_file else windows
        prepared = read(preparer, _window(model, stream, batch_size))
        _Runner(model, rows, preparer, prepared, batch_size, on_error, write, advance).run()
    unfinished.check()


def _withholding(write: Write) -> Write:
    """Return a writer that withholds labels which are guesses."""

    def write_known(rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        write(rows, [each.withheld() if isinstance(each, Prediction) else each for each in answers])

    return write_known


def _load(folder: Path, digest: str | None, precision: str | None, *, threads: int | None, is_bulk: bool) -> Model:
    """Load a bundle; for many rows, with a single-threaded run of the graph on each core."""
    opened = Bundle.open(folder, digest=digest)
    options = SessionOptions(threads=threads)
    if is_bulk and not opened.manifest.is_generative:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options = SessionOptions(threads=1, runs=threads or cores)
    return open_model(opened, precision=precision, options=options)


@dataclass
class _Runner:
    """Answers and writes rows, a window at a time."""

    model: Model
    source: InputRows
    preparer: Preparer
    windows: Iterator[Window]
    batch_size: int
    on_error: OnError
    write: Write
    advance: Callable[[int], None]
    rows: int = 0
    skipped: int = 0

    def run(self) -> None:
        """Answer all rows. Those before a row that stops the run are written first."""
        for window in self.windows:
            self.rows += len(window.items)
            self._run_window(window)
            self.advance(window.position)
        if self.skipped:
            note(f"skipped {self.skipped:,} of {self.rows:,} rows.")
        if not self.rows:
            if self.source.name != STDIN:  # a command before the pipe may well have no output
                raise InputError(f"{self.source.name} holds no rows; write one row a line, after a header in CSV.")
            note(f"{STDIN} holds no rows.")
            self.write((), ())

    def _run_window(self, window: Window) -> None:
        rows, requests, error = window.answerable(self._skip if self.on_error is OnError.SKIP else None)
        if rows:
            self.write(rows, self.model.answer(requests, batch_size=self.batch_size))
        if error is not None:
            raise self.preparer.with_hint(error)

    def _skip(self, message: str) -> None:
        self.skipped += 1
        if self.skipped == 1:  # the others are counted at the end
            note(f"skipping a row: {message}")


def _single_text(row: InputRow | BadRecord) -> str | tuple[str, str]:
    assert isinstance(row, InputRow)  # arguments are always texts
    return row.text


def _check_usage(texts: list[str] | None, source: Path | None, pair: str | None, *, has_row_options: bool) -> None:
    """Refuse arguments that exclude each other. Raises InputError."""
    if texts and source is not None:
        raise InputError("there are both TEXT and --input; pass one of them.")
    if texts and has_row_options:
        raise InputError(
            "--text-column, --pair-column and --format are for rows of a file; leave them out beside TEXT."
        )
    if pair is not None and not texts:
        raise InputError("--pair goes with one TEXT; for rows of a file, name a column with --pair-column.")
    if not texts and source in (None, _STDIN) and (sys.stdin is None or (source is None and sys.stdin.isatty())):
        raise InputError("there is nothing to read; pass a TEXT, or --input FILE, or pipe lines into the command.")


def _format(source: Path | None, form: Format | None) -> Format:
    if form is not None:
        return form
    return Format.TEXT if source in (None, _STDIN) else format_of(source or _STDIN)


def _open_rows(
    texts: list[str] | None,
    *,
    pair: str | None,
    path: Path | None,
    form: Format | None,
    columns: Columns,
    stack: ExitStack,
) -> tuple[InputRows, BinaryIO | None]:
    if texts:
        return from_arguments(texts, pair), None
    chosen = _format(path, form)
    if path is None or path == _STDIN:
        if chosen is Format.PARQUET:
            raise InputError("Parquet cannot be read from a pipe; save it as a file, and pass --input FILE.")
        return from_stream(sys.stdin.buffer, STDIN, chosen, columns), sys.stdin.buffer
    stream = stack.enter_context(path.open("rb"))
    _check_end(stream, path)
    if chosen is Format.PARQUET:
        return from_parquet(stream, str(path), os.fstat(stream.fileno()).st_size, columns), stream
    return from_stream(stream, str(path), chosen, columns), stream


def _check_end(stream: BinaryIO, path: Path) -> None:
    """Refuse devices that may have no end, unlike files, pipes and terminals. Raises InputError."""
    status = os.fstat(stream.fileno())
    is_device = stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not stream.isatty())
    if is_device and not os.path.samestat(status, Path(os.devnull).stat()):
        raise InputError(f"{path} is a device; pass a file, a pipe or - for standard input.")


def _status(stream: BinaryIO | None) -> os.stat_result | None:
    """Return the status of a stream's file; None if it is no regular file."""
    try:
        status = os.fstat(stream.fileno()) if stream is not None else None
    except OSError:  # a stream in memory has no file number
        return None
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def _window(model: Model, stream: BinaryIO | None, batch_size: int) -> int:
    """Return the rows to read before the first is answered: few if someone waits, or if each takes long."""
    if stream is not None and _status(stream) is None and stream.isatty():
        return 1
    may_wait = (stream is None or _status(stream) is not None) and not model.manifest.is_generative
    return max(WINDOW, batch_size) if may_wait else batch_size


@dataclass(frozen=True)
class ParquetLayout:
    """Columns of an output in Parquet."""

    task: str | None
    schema: Any
    """Arrow schema of the rows' columns; None for rows of lines."""
    prefix: str

    def writer(self, model: Model, file: IO[Any]) -> ParquetAnswers:
        """Return a writer to an open file. Raises InputError for columns that the rows have already."""
        has_own = self.task is None or self.schema is None or TASK_COLUMN in self.schema.names
        types = answer_types(model, None if has_own else self.task)
        return ParquetAnswers(file, self.schema, schema_of(types), self.prefix)


def _writer(
    model: Model,
    output: Path | None,
    as_json: bool,
    stream: BinaryIO | None,
    parquet: ParquetLayout,
    stack: ExitStack,
) -> Write:
    is_parquet = output is not None and output.suffix.lower() == PARQUET_SUFFIX
    if parquet.prefix and not is_parquet:
        raise InputError("--answer-prefix is for columns of Parquet; leave it out, or pass --output FILE.parquet.")
    if output is None:
        if as_json:
            return JsonLines(sys.stdout, numbered=stream is not None)
        return AnswerTable(model, sys.stdout).write
    status = _status(stream)
    if status is not None and output.exists() and os.path.samestat(status, output.stat()):
        raise InputError(f"{output} is the file that is read; name another with --output.")
    if is_parquet:
        return stack.enter_context(parquet_in(output, partial(parquet.writer, model)))
    return stack.enter_context(answers_in(output, numbered=stream is not None))


def _may_show_bar(path: Path | None, stream: BinaryIO | None, output: Path | None) -> bool:
    if path is None or path == _STDIN or _status(stream) is None or not sys.stderr.isatty():
        return False
    return output is not None or not sys.stdout.isatty()


@contextmanager
def _bar(size: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many of some bytes have been read; show nothing for None."""
    if size is None:
        yield lambda _: None
        return
    # imported here, since a start without a bar is 60 ms faster
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from mpt_edge._console import error_console

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console()) as bar:
        row = bar.add_task("reading", total=size)
        yield lambda position: bar.update(row, completed=position)
