"""Escapes: every control character of Unicode's tables, and nothing else."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from mpt_edge._escapes import escaped, escaped_json, one_line

#: Bidirectional classes of the characters that turn the direction of text.
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

_MARKS = {"\u200e", "\u200f", "\u061c"}


def is_obeyed(char: str) -> bool:
    """Whether a terminal obeys a character, or can have none of it, by the categories of Unicode."""
    kind, turns = unicodedata.category(char), unicodedata.bidirectional(char) in _TURNS
    return (kind == "Cc" and char not in "\n\t") or kind in {"Zl", "Zp", "Cs"} or turns or char in _MARKS


def test_all_characters() -> None:
    text = "".join(map(chr, range(sys.maxunicode + 1)))
    raw = {char for char in text if escaped(char) == char}
    assert {char for char in text if is_obeyed(char)} == set(text) - raw - set(map(chr, range(0x206A, 0x2070)))
    assert set(escaped(text)) == raw
    assert set(one_line(text)) == raw - {"\n", "\t"}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\x1b[2J\tb\r\n", "a\\x1b[2J\tb\\r\n"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("\U0001f469\u200d\U0001f467 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd", None),
        ("\u0915\u094d\u200d\u0937 \u65e5\u672c na\u00efve", None),
    ],
)
def test_text(text: str, plain: str | None) -> None:
    assert escaped(text) == (text if plain is None else plain)
    assert escaped(escaped(text)) == escaped(text)


def test_one_line() -> None:
    assert one_line("a\r\nmpt-edge: all is well\tb") == "a\\r\\nmpt-edge: all is well\\tb"


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": True}], ids=str)
def test_json_keeps_its_value(options: dict[str, object]) -> None:
    value = {"a\u202e": ["\x00\x1b\x7f\x9b\u2028\n\udc9b", "\U0001f469\u200d\U0001f467"]}
    text = escaped_json(json.dumps(value, **{"ensure_ascii": False, **options}))  # type: ignore[arg-type]
    assert json.loads(text) == value
    assert text.encode()
    assert text == escaped(text)
    assert "\\u202e" in text
