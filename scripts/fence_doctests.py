"""Griffe extension: show doctests of docstrings as code on the documentation site.

Docstrings hold doctests as plain paragraphs, which Markdown would read as quotes and links.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^>>> .*\n?)(?:^(?!\s*$).*\n?)*", re.MULTILINE)


class FenceDoctests(griffe.Extension):
    """Put each doctest between code fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring and ">>> " in obj.docstring.value:
            text = obj.docstring.value
            obj.docstring.value = _DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
