"""`mpt-edge run --engine`: files larger than memory, in parts that are kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from mpt_edge._extras import check_installed
from mpt_edge.batch.executors import Executor, LocalExecutor
from mpt_edge.batch.job import Job, JobResult
from mpt_edge.batch.part_worker import PartWorker
from mpt_edge.batch.parts import find_files
from mpt_edge.batch.ray_executor import RayExecutor
from mpt_edge.batch.shared_model import shared_model
from mpt_edge.cli import generation
from mpt_edge.cli.output import note, note_answers
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.records import Format

#: Maximum rows of a part, unless the user says otherwise: a few seconds of a small encoder.
PART_ROWS = 1024

#: Shows the bytes that are read, of all bytes.
Bar = Callable[[int], AbstractContextManager[Callable[[int], None]]]


class Engine(StrEnum):
    """Executor of a job's parts."""

    LOCAL = "local"
    """In this process."""
    RAY = "ray"
    """On the workers of a Ray cluster."""


def run_job(
    worker: PartWorker,
    given: GenerationKwargs,
    *,
    engine: Engine,
    source: Path,
    form: Format | None,
    output: Path,
    part_rows: int,
    workers: int | None,
    bar: Bar,
) -> None:
    """Answer a file, or the files of a folder, into a folder of parts, and tell how many rows were answered."""
    if engine is Engine.RAY:
        check_installed("ray", "ray")
    files = find_files(source, form)
    if any(value not in (None, []) for value in given.values()):
        options = generation.options_for(shared_model(worker.model), given, worker.task)
        worker = replace(worker, options=options)
    if worker.task is None and any(each is Format.TEXT for _, each in files):
        raise InputError("no task is named; pass --task NAME, and see `mpt-edge tasks list` for the names.")
    if worker.prefix and not any(each is Format.PARQUET for _, each in files):
        raise InputError("--answer-prefix is for columns of Parquet; leave it out, or pass a Parquet file.")
    job = Job(output, files, replace(worker, has_files=source.is_dir()), part_rows)
    executor: Executor = RayExecutor(workers) if engine is Engine.RAY else LocalExecutor()
    with bar(job.input_bytes) as advance:
        result = job.run(executor, advance)
    _report(result, output)


def check_job_usage(source: Path | None, output: Path | None, *, has_texts: bool, as_json: bool) -> tuple[Path, Path]:
    """Return input and output of a job. Raises InputError for arguments that jobs do not have."""
    if source is None or source == Path("-") or has_texts:
        raise InputError("--engine answers files; pass --input with a file or a folder.")
    if output is None or as_json:
        raise InputError("--engine writes a folder of parts; pass --output FOLDER, without --json.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is no folder, and --engine writes a folder of parts; pass another --output.")
    if source.resolve() == output.resolve():
        raise InputError(f"{output} is the folder that is read; pass another --output.")
    return source, output


def _report(result: JobResult, output: Path) -> None:
    if result.first_error:
        note(f"skipping a row: {result.first_error}")
    if result.skipped:
        note(f"skipped {result.skipped:,} of {result.rows:,} rows.")
    if result.reused:
        note(f"{result.reused:,} of {result.parts:,} parts were finished before.")
    note_answers(result.rows - result.skipped, output)
