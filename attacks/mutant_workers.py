"""Attempts at parsing mutants, in processes that may hang, grow and die."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import selectors
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from attacks.mutant_kinds import Kind
from mpt_edge.errors import MptEdgeError

#: Seconds after which a process that shows no progress is killed.
MAX_SILENCE = 60.0

#: Bytes by which a process may grow.
MAX_GROWTH = 256 << 20

#: Address space above that, for what is reserved and not used.
_RESERVED = 1 << 30


class TooSlowError(BaseException):
    """A mutant takes more than `Kind.max_seconds`; no handler of exceptions stops it."""


@dataclass
class Report:
    """Counted results of mutants of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Numbers of mutants that got through, and how."""

    def merge(self, other: Report) -> None:
        """Add another report."""
        self.counts += other.counts
        self.failures += other.failures


def mutant(kind: Kind, seed: int, number: int) -> tuple[bytes, bool]:
    """Return a mutant by its number, and whether its hash was made anew."""
    return kind.make(Random(f"{seed}/{kind.name}/{number}"))  # noqa: S311 - it is no secret


def attempt(kind: Kind, data: bytes, *, is_sealed: bool) -> tuple[str, str | None]:
    """Check one mutant, and return the result and the failure, if it is one."""
    try:
        signal.setitimer(signal.ITIMER_PROF, kind.max_seconds)
        try:
            return kind.check(data, is_sealed=is_sealed), None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except MptEdgeError:
        return "refused", None
    except TooSlowError:
        return "slow", f"it takes more than {kind.max_seconds:g} s"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # among them PanicException of libraries in Rust
        return "foreign", f"{type(error).__name__}: {error}"[:300]


def try_numbers(kind: Kind, seed: int, numbers: Sequence[int], current: mmap.mmap | None = None) -> Report:
    """Check mutants by their numbers, and stop after one that takes too much memory.

    Args:
        kind: the kind of file.
        seed: seed of the whole run.
        numbers: which mutants.
        current: memory that is told the number of the mutant.
    """
    report, start = Report(), _peak()
    with _alarm():
        kind.begin()
        try:
            for number in numbers:
                if current is not None:
                    current[:8] = struct.pack("<q", number)
                data, is_sealed = mutant(kind, seed, number)
                result, failure = attempt(kind, data, is_sealed=is_sealed)
                if (growth := _peak() - start) > MAX_GROWTH:
                    result, failure = "large", f"it takes {growth >> 20:,} MB"
                report.counts[result] += 1
                if failure is not None:
                    report.failures.append((number, failure))
                if result == "large":
                    break
        finally:
            kind.end()
    return report


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    """Raise `TooSlowError` when the timer of `attempt` runs out."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)


class Worker:
    """A forked process that checks a range of mutants."""

    def __init__(self, kind: Kind, seed: int, numbers: range) -> None:
        """Fork."""
        self.kind, self.numbers = kind, numbers
        self.current = mmap.mmap(-1, 8)
        self.current[:8] = struct.pack("<q", numbers.start)
        self.pipe, answer = os.pipe()
        self._answer, self._last, self._since = b"", -1, time.monotonic()
        self.pid = os.fork()
        if self.pid:
            os.close(answer)
            return
        try:
            os.close(self.pipe)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # panics print much
            _limit_memory()
            report = try_numbers(kind, seed, numbers, self.current)
            with os.fdopen(answer, "wb") as file:
                file.write(json.dumps([report.counts, report.failures]).encode())
        finally:
            os._exit(1)

    @property
    def number(self) -> int:
        """Number of the mutant in work."""
        return int(struct.unpack("<q", self.current[:8])[0])

    def read(self) -> bool:
        """Read of the answer what is there; return whether that was all."""
        part = os.read(self.pipe, 1 << 16)
        self._answer += part
        return not part

    def is_silent(self) -> bool:
        """Whether nothing moves."""
        if self.number != self._last:
            self._last, self._since = self.number, time.monotonic()
        return time.monotonic() - self._since > MAX_SILENCE

    def kill(self) -> None:
        """End the process."""
        os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> tuple[Report, range]:
        """Return the report of the ended process, and the numbers that are left."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        left = range(self.number + 1, self.numbers.stop)
        if self._answer:
            counts, failures = json.loads(self._answer)
            return Report(Counter(counts), [(number, text) for number, text in failures]), left
        code = os.waitstatus_to_exitcode(status)
        how = f"the process ends by signal {-code}" if code < 0 else "the process ends"
        # The results before this one are lost with the process; they are tried again.
        return Report(Counter(died=1), [(self.number, how)]), left


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_GROWTH + _RESERVED, resource.RLIM_INFINITY))


def run_workers(jobs: Sequence[tuple[Kind, range]], seed: int, workers: int) -> dict[str, Report]:
    """Check all mutants of some jobs in processes, and return a report by kind of file."""
    reports = {kind.name: Report() for kind, _ in jobs}
    waiting, active = list(reversed(jobs)), selectors.DefaultSelector()
    while waiting or active.get_map():
        while waiting and len(active.get_map()) < workers:
            worker = Worker(waiting[-1][0], seed, waiting.pop()[1])
            active.register(worker.pipe, selectors.EVENT_READ, worker)
        ready = {key.data for key, _ in active.select(1)}
        for worker in [key.data for key in active.get_map().values()]:
            if worker not in ready:
                if worker.is_silent():
                    worker.kill()
                continue
            if not worker.read():
                continue
            active.unregister(worker.pipe)
            report, left = worker.finish()
            if report.counts["died"]:
                waiting.append((worker.kind, range(worker.numbers.start, worker.number)))
            reports[worker.kind.name].merge(report)
            if left:
                waiting.append((worker.kind, left))
    return reports
