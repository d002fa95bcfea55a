"""JSON lines on standard output or in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TextIO

from mpt_edge._escapes import one_line
from mpt_edge._files import create, error_names, mode_of
from mpt_edge.batch.json_answers import JsonLines
from mpt_edge.batch.parquet_answers import ParquetAnswers
from mpt_edge.batch.rows import InputRow
from mpt_edge.errors import InputError
from mpt_edge.inference.answers import Answer

#: Suffix of a file while answers are still to come.
PART = ".part"


class Writer(Protocol):
    """Writer of answers to an open file."""

    rows: int

    def __call__(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        """Write the answers to some rows."""


@contextmanager
def answers_in(output: Path, *, numbered: bool) -> Iterator[Writer]:
    """Write JSON lines to a file, which replaces an older one once all are written.

    If the run ends before, the older file stays, and the answers so far lie beside it.
    """
    if output.exists() and not output.is_file():  # a device or a pipe cannot be replaced
        with _opened(output) as file:
            yield JsonLines(file, numbered=numbered)
        return
    with _replaced(output) as (part, opener), _opened(part, opener) as file:
        lines = JsonLines(file, numbered=numbered)
        yield lines
    note_answers(lines.rows, output)


@contextmanager
def parquet_in(output: Path, make: Callable[[IO[Any]], ParquetAnswers]) -> Iterator[Writer]:
    """Write Parquet to a file in the same way. Raises InputError for a device or a pipe."""
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is no regular file, which Parquet needs; name a file, or write JSON lines.")
    with _replaced(output) as (part, opener), open(part, "wb", opener=opener) as file, error_names(str(part)):
        answers = make(file)
        try:
            yield answers
        finally:
            answers.close()
            if not answers.rows and sys.exc_info()[0] is not None:
                file.truncate(0)  # a file without answers is not kept
    note_answers(answers.rows, output)


def note_answers(rows: int, output: Path) -> None:
    """Tell how many answers are in a file."""
    note(f"{rows:,} {'answer is' if rows == 1 else 'answers are'} in {output}.")


@contextmanager
def _replaced(output: Path) -> Iterator[tuple[Path, Callable[[str, int], int]]]:
    """Yield a path, with the function that opens it, which replaces ``output`` in the end."""
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    mode = mode_of(target)
    part.unlink(missing_ok=True)  # of a run that failed; or a link, through which nothing is written
    with _kept(part):
        yield part, lambda _, __: create(part, mode)
    if mode is not None:
        part.chmod(mode)
    part.replace(target)


@contextmanager
def _opened(path: Path, opener: Callable[[str, int], int] | None = None) -> Iterator[TextIO]:
    """Open a file for writing; an error while closing it names it too."""
    file = open(path, "w", encoding="utf-8", newline="\n", opener=opener)  # noqa: SIM115 - closed below
    try:
        yield file
    finally:
        with error_names(str(path)):
            file.close()


@contextmanager
def _kept(part: Path) -> Iterator[None]:
    """Name the file with the answers so far if the run fails; leave no empty file."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        if part.is_file() and part.stat().st_size:
            note(f"the answers so far are in {part}.")
        else:
            part.unlink(missing_ok=True)
        raise


def note(message: str) -> None:
    """Print a message that is no answer."""
    print(f"mpt-edge: {one_line(message)}", file=sys.stderr)
