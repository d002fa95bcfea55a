"""What reaches a terminal: characters that it can show, and no commands to it."""

from __future__ import annotations

import io

import pytest

from mpt_edge.cli.table import shown


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "wanted"), [("utf-8", "caf\u00e9 \u65e5\u672c"), ("latin-1", "caf\u00e9 ??"), ("ascii", "caf? ??")]
)
def test_what_an_encoding_lacks_is_replaced(encoding: str, wanted: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    found = shown("caf\u00e9 \u65e5\u672c", file)
    assert found == wanted
    file.write(found)  # would raise


def test_control_characters_stay_out_of_terminals() -> None:
    """A sequence that clears the screen, say; joined emoji and line ends are none."""
    text = "a\x1b[2J\tb\n\u0007 \U0001f469\u200d\U0001f467"
    plain = "a\ufffd[2J\tb\n\ufffd \U0001f469\u200d\U0001f467"
    assert shown(text, Terminal(io.BytesIO(), encoding="utf-8")) == plain
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert shown(text, file) == text  # a file gets what was written
    assert shown(text, file, people=True) == plain
