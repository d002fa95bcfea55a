"""Windows of rows: the next one is read and tokenized while one is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mpt_edge.batch.preparing import Preparer
from mpt_edge.batch.rows import InputRow
from mpt_edge.errors import InputError, MptEdgeError
from mpt_edge.formats.records import BadRecord
from mpt_edge.inference.heads.base import Request

#: Rows that are read, answered and written at once. Sorted by length, they fill runs with hardly any padding.
WINDOW = 1024

#: Characters of these rows, in all; more end a window early, which bounds its memory.
_CHARACTERS = 1 << 22


@dataclass(frozen=True)
class Window:
    """Rows that were read together."""

    items: list[InputRow | BadRecord]
    requests: list[Request | MptEdgeError]
    """For each row a request, or the error that keeps it from being answered."""
    position: int
    """Bytes of the source that were read so far."""

    def answerable(
        self, skip: Callable[[str], None] | None
    ) -> tuple[list[InputRow], list[Request], MptEdgeError | None]:
        """Return the rows to answer with their requests, and the error that stops after them; None if none does.

        Args:
            skip: called with the sentence of each row that cannot be answered; None stops at the first of them.
        """
        rows: list[InputRow] = []
        requests: list[Request] = []
        for item, result in zip(self.items, self.requests, strict=True):
            if isinstance(result, Request) and isinstance(item, InputRow):
                rows.append(item)
                requests.append(result)
            elif isinstance(result, InputError) and skip is not None:
                skip(str(result))
            elif isinstance(result, MptEdgeError):
                return rows, requests, result
        return rows, requests, None


def windows(preparer: Preparer, size: int) -> Iterator[Window]:
    """Yield windows of up to ``size`` rows, each read when it is asked for, as a person at a terminal expects."""
    while (window := _read(preparer, size)).items:
        yield window


def windows_ahead(preparer: Preparer, size: int) -> Iterator[Window]:
    """Yield windows of up to ``size`` rows of a file; one more is read in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="rows") as reader:
        ahead = reader.submit(_read, preparer, size)
        while (window := ahead.result()).items:
            ahead = reader.submit(_read, preparer, size)
            yield window


def _read(preparer: Preparer, size: int) -> Window:
    items: list[InputRow | BadRecord] = []
    characters = 0
    for item in preparer.source.rows:
        items.append(item)
        if isinstance(item, InputRow):
            characters += len(item.text) if isinstance(item.text, str) else sum(map(len, item.text))
        if len(items) >= size or characters >= _CHARACTERS:
            break
    return Window(items, preparer.prepare(items), preparer.source.position())
