"""Answers for people: labels in aligned columns, generated texts in full."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from mpt_edge._escapes import escaped, one_line
from mpt_edge.batch.rows import InputRow
from mpt_edge.inference.answers import Abstention, Answer, Prediction
from mpt_edge.inference.heads.base import Display
from mpt_edge.inference.model import Model

_MAX_NAME_WIDTH = 32
_MIN_TEXT_WIDTH = 20


class AnswerTable:
    """Aligned columns of answers. The header is repeated when wider or further columns are needed.

    A generated text is printed below its input, in full.
    """

    def __init__(self, model: Model, file: TextIO) -> None:
        """Write answers of a model's tasks to ``file``."""
        self._model = model
        self._file = file
        self._tasks: set[str] = set()
        self._columns: set[str] = set()
        self._widths: tuple[int, int] | None = None

    def write(self, rows: Sequence[InputRow], answers: Sequence[Answer]) -> None:
        """Print the answers to some rows."""
        self._tasks |= {answer.task for answer in answers}
        blocks = {name for name in self._tasks if self._model.task(name).head.display is Display.BLOCK}
        self._lay_out({answer.task for answer in answers} - blocks)
        for row, answer in zip(rows, answers, strict=True):
            text = row.text if isinstance(row.text, str) else " | ".join(row.text)
            if answer.task in blocks:
                self._block(text, answer)
            else:
                self._row(text, answer)
        self._file.flush()

    def _lay_out(self, tasks: set[str]) -> None:
        is_mixed = len(self._tasks) > 1
        if tasks <= self._columns and (not tasks or self._widths is None or bool(self._widths[1]) == is_mixed):
            return
        self._columns |= tasks
        selected = [self._model.task(name) for name in self._columns]
        longest = max(cell_len(name) for task in selected for name in (*task.labels, "label"))
        has_phrases = any(task.head.display is Display.PHRASE for task in selected)
        label = _MAX_NAME_WIDTH if has_phrases else min(_MAX_NAME_WIDTH, longest)
        names = min(_MAX_NAME_WIDTH, max(cell_len(name) for name in (*self._columns, "task")))
        widths = (label, names if is_mixed else 0)
        if widths != self._widths:
            if self._widths is not None:
                self._file.write("\n")
            self._widths = widths
            self._line("label", "score", "task", "text", "")

    def _row(self, text: str, answer: Answer) -> None:
        limit = self._model.task(answer.task).max_length
        note = _note(answer, f"truncated to {limit} tokens")
        score = "-" if answer.confidence is None else f"{answer.confidence:.4f}"
        self._line(answer.summary, score, answer.task, text, note)

    def _line(self, label: str, score: str, task: str, text: str, note: str) -> None:
        label_width, task_width = self._widths or (0, 0)
        cells = [_fit(label, label_width), f"{score:<6}"] + ([_fit(task, task_width)] if task_width else [])
        self._put("  ".join(cells) + "  ", text, note)

    def _block(self, text: str, answer: Answer) -> None:
        task = f"{answer.task}  " if len(self._tasks) > 1 else ""
        self._put(f"> {task}", text, _note(answer, "truncated"))
        self._file.write(f"{printable(answer.summary, self._file, always=True)}\n\n")

    def _put(self, start: str, text: str, note: str) -> None:
        """Write a line, its text cut to the terminal's width."""
        room = shutil.get_terminal_size((100, 24)).columns - cell_len(start) - len(note)
        line = start + _fit(text, max(room, _MIN_TEXT_WIDTH)).rstrip() + note
        self._file.write(printable(line, self._file) + "\n")


def _note(answer: Answer, truncated: str) -> str:
    """Return what an answer says of its text, in parentheses after a space; empty where that is nothing."""
    notes = [truncated] * answer.truncated + ["no known tokens"] * answer.unknown
    notes += ["unsure"] * (isinstance(answer, Abstention) or (isinstance(answer, Prediction) and answer.abstain))
    return f" ({', '.join(notes)})" if notes else ""


def printable(text: str, file: TextIO, *, always: bool = False) -> str:
    """Return a text that a file can take; its encoding replaces unknown characters.

    Args:
        text: the text.
        file: its destination.
        always: escape control characters even if ``file`` is no terminal. A terminal would obey them, and
            generated text is no command.
    """
    if always or file.isatty():
        text = escaped(text)
    encoding = file.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _fit(text: str, width: int) -> str:
    """Return text on one line with escaped control characters, cut or padded to a width in cells."""
    plain = one_line(" ".join(text[: width * 8].split()))
    if cell_len(plain) <= width and len(text) <= width * 8:
        return set_cell_size(plain, width)
    return set_cell_size(plain, width - 1).rstrip() + "…"
