"""The log of a training run: ``log.jsonl``, and the same metrics for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpt_edge._files import atomic_write
from mpt_edge.errors import InputError

LOG = "log.jsonl"

#: Largest step and metric that a log may have; figures cannot plot much more.
_MAX_STEP, _MAX_METRIC = 2**53, 1e100


class RunLog:
    """The log in one run's folder; entries after a checkpoint are dropped when the run resumes."""

    def __init__(self, folder: Path, step: int, *, writes: bool = True) -> None:
        """Open a log.

        Args:
            folder: the run's folder.
            step: number of finished steps; 0 for a new run.
            writes: whether this process writes the log; one of several does.

        Raises:
            InputError: the log is damaged, or a folder.
        """
        self._writes = writes
        self._path = folder / LOG
        self._step = step
        self._board: Any = None
        if writes:
            self._truncate(step)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry; its numbers, and its mappings of numbers, are plotted at its ``step``."""
        if not self._writes:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is None:  # opened by the first entry, so that a finished run gets no further file
            from tensorboardX import SummaryWriter

            folder = self._path.parent / "tensorboard"
            purge = self._step + 1 if self._step else None
            self._board = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
        for name, value in _scalars(entry):
            self._board.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Flush TensorBoard's file; the log itself is always complete."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _truncate(self, step: int) -> None:
        """Drop the entries after ``step``."""
        if self._path.is_dir():
            raise InputError(f"{self._path} is a folder, and the log belongs there; remove it.")
        if self._path.is_file():
            kept = _entries(self._path, 0, step)
            with atomic_write(self._path) as temporary:
                temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return a run's entries, oldest first; an incomplete last line, of a run in progress, is ignored.

    Raises:
        InputError: there is no log, or it is damaged.
    """
    path = folder / LOG
    if not path.is_file():
        raise InputError(f"{folder} holds no run (no {LOG}); pass the folder of a training run.")
    return _entries(path, 1, math.inf)


def _entries(path: Path, first: int, last: float) -> list[dict[str, Any]]:
    """Return the entries of a range of steps, without an incomplete last line. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(map(_is_entry, entries)):
            raise ValueError("an entry has other values than a run writes")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged; delete it, and the log starts with the next step.") from error
    return [entry for entry in entries if first <= entry["step"] <= last]


def _is_entry(entry: Any) -> bool:
    """Whether a log's value is an entry as `RunLog` writes it."""
    if not isinstance(entry, dict) or type(entry.get("step")) is not int or not 0 <= entry["step"] <= _MAX_STEP:
        return False
    groups, mean = [entry.get("loss", {}), entry.get("validation", {})], entry.get("mean", 0.0)
    if not all(isinstance(group, dict) for group in groups):
        return False
    return all(map(_is_number, [mean, *(value for group in groups for value in group.values())]))


def _is_number(value: Any) -> bool:
    """Whether a value is a metric; a correlation may be NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > _MAX_METRIC


def _scalars(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the names and values that TensorBoard plots."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", float(scalar)) for key, scalar in value.items())
        elif isinstance(value, int | float) and name != "step":
            yield name, float(value)
