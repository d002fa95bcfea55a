"""Control characters of foreign text as visible escapes, for terminals and JSON.

A terminal obeys some characters and reorders text at others. Names, labels and answers come from files, so
none of these characters reaches a terminal raw. All other text stays as it is: letters of every script,
and emoji with their joiners.
"""

from __future__ import annotations

import re

#: C0 and C1 controls, marks and embeddings that turn the direction of text, line separators, and lone surrogates, which
#: are bytes of file names that no encoding has.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff"

_IN_TEXT, _IN_LINE = re.compile(f"[{_CONTROLS}]"), re.compile(f"[\t\n{_CONTROLS}]")

#: Escapes of one letter, as Python writes them.
_LETTERS = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def escaped(text: str) -> str:
    """Return a text whose control characters are written as Python writes them; lines and tabs stay."""
    return _IN_TEXT.sub(_escape, text)


def one_line(text: str) -> str:
    """Return a text on one line, its line ends and tabs escaped too."""
    return _IN_LINE.sub(_escape, text)


def escaped_json(text: str) -> str:
    """Return JSON in which control characters are hexadecimal escapes; the values stay the same."""
    return _IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _LETTERS.get(match[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
