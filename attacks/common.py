"""Counted results and processes of their own, for several attacks."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpt_edge.errors import MptEdgeError


@dataclass
class Tally:
    """Counted results of one kind of trial."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, result: str, trouble: str | None = None) -> None:
        """Count a trial by its result, or keep its problem."""
        self.counts["broken" if trouble else result] += 1
        if trouble:
            self.problems.append(f"{result}: {trouble}")

    def __str__(self) -> str:
        """Show all counts in one line, and the first problems below."""
        parts = [f"{count:,} {result}" for result, count in sorted(self.counts.items()) if result != "broken"]
        line = ", ".join([f"{self.counts.total():,} trials", *parts, f"{self.counts['broken']:,} broken"])
        return "\n".join([f"{self.name}: {line}", *(f"    {each}" for each in self.problems[:5])])


#: Exit codes of a child: the change is made, refused by one of our sentences, or failed with a foreign error.
DONE, REFUSED, FOREIGN = 0, 1, 2


class Child:
    """A forked process that waits, makes one change and ends."""

    def __init__(self, change: Callable[[], object], *, user: int | None = None, file_size: int | None = None) -> None:
        """Fork; the child waits for `begin`.

        Args:
            change: called in the child.
            user: number of the user that the child becomes.
            file_size: limit on the size of the files that the child writes, in bytes.
        """
        wait, self._go = os.pipe()
        self._answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(wait)
            os.close(answer)
            return
        code = FOREIGN
        try:
            os.read(wait, 1)
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
            if user is not None:
                os.setuid(user)
            code = _report(change, answer)
        finally:
            os._exit(code)

    def begin(self) -> None:
        """Let the child go."""
        os.write(self._go, b"x")

    def kill(self) -> None:
        """End the child at once."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> tuple[int, str]:
        """Return the exit code, negative for a signal, and the child's message."""
        _, status = os.waitpid(self.pid, 0)
        message = os.read(self._answer, 4096).decode()
        os.close(self._answer)
        os.close(self._go)
        return os.waitstatus_to_exitcode(status), message


def _report(change: Callable[[], object], answer: int) -> int:
    message, code = "", DONE
    try:
        change()
    except MptEdgeError as error:
        message, code = str(error), REFUSED
    except BaseException as error:  # the trial is about foreign errors
        message, code = repr(error), FOREIGN
    with contextlib.suppress(OSError):  # faults are injected here too
        os.write(answer, message.encode())
    return code


def run_child(
    change: Callable[[], object], *, user: int | None = None, file_size: int | None = None
) -> tuple[int, str]:
    """Make a change in a process of its own, and return `Child.wait`'s result."""
    child = Child(change, user=user, file_size=file_size)
    child.begin()
    return child.wait()


def resident_bytes() -> int:
    """Return the memory in use by this process. It needs /proc."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
