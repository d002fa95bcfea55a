"""What a run writes while it trains: ``log.jsonl``, and the same figures for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpt_edge._files import atomic_write
from mpt_edge.errors import InputError

LOG = "log.jsonl"


class RunLog:
    """The log of one run's folder; entries behind a checkpoint are dropped when the run resumes."""

    def __init__(self, folder: Path, step: int, *, writes: bool = True) -> None:
        """Open the log of a run that continues behind ``step``; 0 for a new one.

        Args:
            folder: the run's folder.
            step: where the run stands.
            writes: whether this process writes it; of several one does.

        Raises:
            InputError: the log is damaged.
        """
        self._writes = writes
        self._path = folder / LOG
        self._step = step
        self._board: Any = None
        if writes:
            self._keep_until(step)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry; ``step`` is its place, numbers and mappings of numbers are its figures."""
        if not self._writes:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is None:  # made with the first entry: a finished run that is looked at again adds no file
            from tensorboardX import SummaryWriter

            folder = self._path.parent / "tensorboard"
            purge = self._step + 1 if self._step else None
            self._board = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
        for name, value in _figures(entry):
            self._board.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Write out what TensorBoard's file still lacks; the log itself is never behind."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _keep_until(self, step: int) -> None:
        if self._path.is_file():
            kept = _entries(self._path, 0, step)
            with atomic_write(self._path) as temporary:
                temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return a run's entries, oldest first; half a line at the end, of a run under way, is left out.

    Raises:
        InputError: there is no log, or it is damaged.
    """
    path = folder / LOG
    if not path.is_file():
        raise InputError(f"{folder} holds no run (no {LOG}); pass the folder of a training run.")
    return _entries(path, 1, math.inf)


def _entries(path: Path, first: int, last: float) -> list[dict[str, Any]]:
    """Return the entries of some steps; half a line at the end, as a kill leaves it, is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if first <= entry["step"] <= last]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete it, and the log starts with the next step.") from error


def _figures(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", float(figure)) for key, figure in value.items())
        elif isinstance(value, int | float) and name != "step":
            yield name, float(value)
