"""Answer tables: columns, and only characters that a terminal can show."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from mpt_edge import Model
from mpt_edge.batch.rows import InputRow
from mpt_edge.cli.table import AnswerTable, printable


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", "caf\u00e9 \u65e5\u672c"), ("latin-1", "caf\u00e9 ??"), ("ascii", "caf? ??")]
)
def test_characters_outside_an_encoding_are_replaced(encoding: str, expected: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    result = printable("caf\u00e9 \u65e5\u672c", file)
    assert result == expected
    file.write(result)  # would raise


def test_control_characters_stay_out_of_terminals() -> None:
    """A sequence that clears the screen, say; joined emoji and line ends are none."""
    text = "a\x1b[2J\tb\n\u0007 \U0001f469\u200d\U0001f467"
    plain = "a\\x1b[2J\tb\n\\x07 \U0001f469\u200d\U0001f467"
    assert printable(text, Terminal(io.BytesIO(), encoding="utf-8")) == plain
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printable(text, file) == text  # a file gets the text itself
    assert printable(text, file, always=True) == plain


def test_the_header_is_repeated_for_further_columns(model: Model) -> None:
    """Windows of one task have no task column; a window of another task adds it."""
    table = AnswerTable(model, file := io.StringIO())
    for names in (["topic"], ["topic"], ["sentiment", "topic"], ["topic"]):
        rows = [InputRow("a witty film", None, i) for i in range(len(names))]
        table.write(rows, model.run(["a witty film"] * len(names), names))
    first, second = file.getvalue().split("\n\n")
    assert [line.split()[2:] for line in first.splitlines()[1:]] == [["a", "witty", "film"]] * 2
    assert first.splitlines()[0].split() == ["label", "score", "text"]
    assert second.splitlines()[0].split() == ["label", "score", "task", "text"]
    assert [line.split()[2] for line in second.splitlines()[1:]] == ["sentiment", "topic", "topic"]


def test_a_long_text_is_cut_to_the_width(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = AnswerTable(model, file := io.StringIO())
    text = "the \u65e5\u672c film\n" * 9  # each of these characters is two cells wide
    table.write([InputRow(text, None, 1)], model.run([text], "topic"))
    line = file.getvalue().splitlines()[1]
    assert "\u2026 (truncated to 16 tokens)" in line
    assert cell_len(line) <= 60


def test_a_text_without_known_tokens_is_said(model: Model) -> None:
    table = AnswerTable(model, file := io.StringIO())
    texts = ["\U0001f600", "\u65e5 " * 20, "a film"]
    table.write([InputRow(text, None, 1) for text in texts], model.run(texts, "topic"))
    first, second, third = file.getvalue().splitlines()[1:]
    assert first.endswith("\U0001f600 (no known tokens)")
    assert second.endswith("(truncated to 16 tokens, no known tokens)")
    assert third.endswith("a film")
