"""Where answers go: JSON lines on standard output or in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mpt_edge.cli.rows import Row
from mpt_edge.inference.answers import Prediction

#: What the name of a file ends in while answers are still to come.
PART = ".part"


class JsonLines:
    """Writes one JSON object a line for each answer.

    Attributes:
        rows: how many were written.
    """

    def __init__(self, file: TextIO, *, numbered: bool) -> None:
        """Write to an open file; ``numbered`` names each row's line."""
        self.rows = 0
        self._file, self._numbered = file, numbered
        self._ascii = not (file.encoding or "").lower().replace("-", "").startswith("utf8")

    def __call__(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> None:
        """Write the answers to some rows, and hand them to the system at once."""
        with _named(str(getattr(self._file, "name", ""))):
            for row, found in zip(rows, predictions, strict=True):
                first, second = (row.text, None) if isinstance(row.text, str) else row.text
                given = {"text": first, "text_pair": second, "line": row.number if self._numbered else None}
                entries = found.to_dict() | given
                kept = {key: value for key, value in entries.items() if value is not None}
                self._file.write(json.dumps(kept, ensure_ascii=self._ascii) + "\n")
            self._file.flush()
        self.rows += len(rows)


@contextmanager
def answers_in(output: Path, *, numbered: bool) -> Iterator[JsonLines]:
    """Write answers to a file, which takes the place of what is there once all are written.

    Where the run ends before, what was there stays, and what was written lies beside it.
    """
    if output.exists() and not output.is_file():  # a device or a pipe: nothing can take its place
        with _opened(output) as file:
            yield JsonLines(file, numbered=numbered)
        return
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    with _kept(part), _opened(part) as file:
        lines = JsonLines(file, numbered=numbered)
        yield lines
    part.replace(target)
    note(f"{lines.rows:,} {'answer is' if lines.rows == 1 else 'answers are'} in {output}.")


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file to write, and name it too where what is left to write cannot be."""
    file = path.open("w", encoding="utf-8", newline="\n")
    try:
        yield file
    finally:
        with _named(str(path)):
            file.close()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the file of an error that has none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


@contextmanager
def _kept(part: Path) -> Iterator[None]:
    """Say where answers are if the run ends before its time; leave no empty file."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        if part.is_file() and part.stat().st_size:
            note(f"what was answered before is in {part}.")
        else:
            part.unlink(missing_ok=True)
        raise


def note(message: str) -> None:
    """Say something that is no answer."""
    print(f"mpt-edge: {message}", file=sys.stderr)
