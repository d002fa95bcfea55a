"""Styled output that shows text as it is: no markup, and no control characters but those of the styles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mpt_edge._escapes import escaped, one_line

#: Width of lines in a file or a pipe, whose reader may have any.
_FILE_WIDTH = 160


class PlainConsole(Console):
    """A console for text from files: brackets are no markup, and control characters are escaped."""

    def __init__(self, **options: Any) -> None:
        """Write to standard output, or as the options of `rich.console.Console` have it."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if not self.is_terminal and "width" not in options:
            self.width = _FILE_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the parts of something to print; only the console's own parts may control a terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


class PlainTable(Table):
    """Columns without lines, with one line of text in each cell."""

    def __init__(self, *headers: str, **options: Any) -> None:
        """Begin with the columns' names."""
        super().__init__(*headers, box=None, pad_edge=False, **options)

    def row(self, *cells: object) -> None:
        """Add a row of values."""
        self.add_row(*(Text(one_line(str(cell))) for cell in cells))


def error_console() -> PlainConsole:
    """Return the error stream."""
    return PlainConsole(stderr=True)
