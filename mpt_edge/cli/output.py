"""JSON lines on standard output or in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TextIO

from mpt_edge._escapes import escaped_json, one_line
from mpt_edge._files import create, mode_of
from mpt_edge.batch.parquet_answers import ParquetAnswers
from mpt_edge.batch.rows import InputRow
from mpt_edge.errors import InputError
from mpt_edge.inference.answers import Answer

#: Suffix of a file while answers are still to come.
PART = ".part"


class JsonLines:
    """Writer of one JSON object per answer.

    Attributes:
        rows: number of rows written.
    """

    def __init__(self, file: TextIO, *, numbered: bool) -> None:
        """Write to an open file; ``numbered`` adds each row's line."""
        self.rows = 0
        self._file, self._numbered = file, numbered

    def __call__(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        """Write the answers to some rows, and flush them."""
        with _error_names(str(getattr(self._file, "name", ""))):
            for row, answer in zip(rows, answers, strict=True):
                first, second = (row.text, None) if isinstance(row.text, str) else row.text
                given = {"text": first, "text_pair": second, "line": row.number if self._numbered else None}
                entries = {key: value for key, value in (answer.to_dict() | given).items() if value is not None}
                self._file.write(json_text(entries, self._file) + "\n")
            self._file.flush()
        self.rows += len(rows)


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
    with _replaced(output) as (part, opener), open(part, "wb", opener=opener) as file, _error_names(str(part)):
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
        with _error_names(str(path)):
            file.close()


@contextmanager
def _error_names(name: str) -> Iterator[None]:
    """Name the file in an error that has no name, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


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


def json_text(value: object, file: TextIO, **options: Any) -> str:
    """Return a value as JSON that a stream can encode, without control characters that a terminal would obey."""
    is_utf8 = (file.encoding or "").lower().replace("-", "").startswith("utf8")
    return escaped_json(json.dumps(value, ensure_ascii=not is_utf8, **options))


def note(message: str) -> None:
    """Print a message that is no answer."""
    print(f"mpt-edge: {one_line(message)}", file=sys.stderr)
