"""Ways to run the parts of a job."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

from mpt_edge.batch.part_worker import PartResult, PartWorker
from mpt_edge.batch.parts import Part
from mpt_edge.errors import MptEdgeError

#: Each part with its result, in any order.
Results = Generator[tuple[Part, PartResult | MptEdgeError]]


class Executor(Protocol):
    """Runs parts, each until it has one result. Parts are read as they are needed."""

    def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
        """Yield each part with its result, in any order. Close the iterator to stop."""


class LocalExecutor:
    """Runs one part at a time in this process."""

    def run(self, worker: PartWorker, parts: Iterator[Part]) -> Results:
        """Yield each part with its result, in order."""
        for part in parts:
            yield part, worker(part)
