"""Answers for people to read: labels in aligned columns, written texts in full."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from mpt_edge.cli.rows import Row
from mpt_edge.inference.answers import Generation, Prediction
from mpt_edge.inference.model import Model

_WIDEST_NAME = 32
_NARROWEST_TEXT = 20


class Table:
    """Aligned columns of labels; the header comes again where wider or further columns are needed.

    A text that was written stands below its input, whole.
    """

    def __init__(self, model: Model, file: TextIO) -> None:
        """Write to ``file`` what tasks of ``model`` answer."""
        self._model = model
        self._file = file
        self._tasks: set[str] = set()
        self._seen: set[str] = set()
        self._widths: tuple[int, int] | None = None

    def write(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> None:
        """Print a window of rows."""
        self._tasks |= {found.task for found in predictions}
        self._lay_out({found.task for found in predictions if not isinstance(found, Generation)})
        for row, found in zip(rows, predictions, strict=True):
            parts = (row.text,) if isinstance(row.text, str) else row.text
            if isinstance(found, Generation):
                self._text(" | ".join(parts), found)
                continue
            limit = self._model.task(found.task).max_length
            note = f" (truncated to {limit} tokens)" if found.truncated else ""
            self._line(found.label, f"{found.score:.4f}", found.task, " | ".join(parts), note)
        self._file.flush()

    def _lay_out(self, tasks: set[str]) -> None:
        several = len(self._tasks) > 1
        if tasks <= self._seen and (not tasks or self._widths is None or bool(self._widths[1]) == several):
            return
        self._seen |= tasks
        files = [self._model.task(task).file for task in self._seen]
        labels = [label for file in files for label in file.labels]
        longest = max(cell_len(name) for name in [*labels, "label"])
        free = any(file.readout in ("tokens", "span") for file in files)  # their answers are no single labels
        label = _WIDEST_NAME if free else min(_WIDEST_NAME, longest)
        names = min(_WIDEST_NAME, max(cell_len(name) for name in [*self._seen, "task"]))
        widths = (label, names if several else 0)
        if widths != self._widths:
            if self._widths is not None:
                self._file.write("\n")
            self._widths = widths
            self._line("label", "score", "task", "text", "")

    def _line(self, label: str, score: str, task: str, text: str, note: str) -> None:
        label_width, task_width = self._widths or (0, 0)
        cells = [_fit(label, label_width), f"{score:<6}"] + ([_fit(task, task_width)] if task_width else [])
        self._put("  ".join(cells) + "  ", text, note)

    def _text(self, text: str, found: Generation) -> None:
        task = f"{found.task}  " if len(self._tasks) > 1 else ""
        self._put(f"> {task}", text, " (truncated)" if found.truncated else "")
        self._file.write(f"{shown(found.text, self._file, people=True)}\n\n")

    def _put(self, start: str, text: str, note: str) -> None:
        """Write a line, its text cut to the terminal's width."""
        room = shutil.get_terminal_size((100, 24)).columns - cell_len(start) - len(note)
        line = start + _fit(text, max(room, _NARROWEST_TEXT)).rstrip() + note
        self._file.write(shown(line, self._file) + "\n")


def shown(text: str, file: TextIO, *, people: bool = False) -> str:
    """Return a text as a file can take it.

    Args:
        text: the text.
        file: where it goes; what its encoding lacks is replaced.
        people: whether to replace control characters even where ``file`` is no terminal. A terminal would
            obey them, and what a model writes is nobody's command.
    """
    if people or file.isatty():
        text = "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
    encoding = file.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _fit(text: str, width: int) -> str:
    """Return text on one line without control characters, cut or padded to a width in cells."""
    words = " ".join(text[: width * 8].split())
    plain = "".join(char if char.isprintable() else "\ufffd" for char in words)
    if cell_len(plain) <= width and len(text) <= width * 8:
        return set_cell_size(plain, width)
    return set_cell_size(plain, width - 1).rstrip() + "…"
