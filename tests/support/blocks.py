"""The blocks of a page of the documentation: commands, code, and the output shown below them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.pages import run_python, shell

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: Commands that set up a machine; tests run in an environment that is set up.
_SETUP = ("make ", "pip ")


@dataclass(frozen=True)
class Example:
    """A block to run, and the output that the page shows below it; None where it shows none."""

    language: str
    code: str
    output: str | None

    @property
    def is_setup(self) -> bool:
        return self.code.startswith(_SETUP)

    def run(self, folder: Path, code: str = "") -> str:
        """Run the block, or ``code`` in its place, and return its standard output."""
        if self.language == "python":
            return run_python(code or self.code, folder)
        done = shell(code or self.code, folder)
        assert done.returncode == 0, f"{self.code}\n{done.stderr}"
        return done.stdout


def examples(page: str) -> Iterator[Example]:
    """Yield the shell and Python blocks of a page, in order."""
    for fence, following in pairwise([*_FENCE.finditer(page), None]):
        language, code = fence.groups()
        if language in ("sh", "python"):
            adjacent = following is not None and not page[fence.end() : following.start()].strip()
            shown = following[2] if adjacent and following[1] == "text" else None
            yield Example(language, code, shown)


def assert_shown(printed: str, shown: str, tolerance: float = 0.05) -> None:
    """Compare printed output with a page's, word by word.

    White space does not count. Numbers with a decimal point may differ by ``tolerance``, times and sizes in
    thousands by a fifth; all else is equal.
    """
    words, wanted = printed.split(), shown.split()
    assert len(words) == len(wanted), f"printed:\n{printed}\nshown:\n{shown}"
    for word, want in zip(words, wanted, strict=True):
        if word != want:
            number, other = _number(word), _number(want)
            message = f"printed {word}, the page shows {want}, in:\n{printed}"
            assert number is not None, message
            assert other is not None, message
            limit = pytest.approx(other, rel=0.2) if "," in want else pytest.approx(other, abs=tolerance)
            assert "." in want or "," in want, message
            assert number == limit, message


def _number(word: str) -> float | None:
    try:
        return float(word.strip("([])").replace(",", ""))
    except ValueError:
        return None
