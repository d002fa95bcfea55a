"""Answer tables: columns, and only characters that a terminal can show."""

from __future__ import annotations

import io

import pytest

from mpt_edge.cli.table import printable


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
    plain = "a\ufffd[2J\tb\n\ufffd \U0001f469\u200d\U0001f467"
    assert printable(text, Terminal(io.BytesIO(), encoding="utf-8")) == plain
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printable(text, file) == text  # a file gets the text itself
    assert printable(text, file, always=True) == plain
