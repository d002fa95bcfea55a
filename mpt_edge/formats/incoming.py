"""Task files on their way into a bundle: read once, so that the bytes that were checked are those that are written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from mpt_edge._files import read_small, user_path
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle_reader import hash_bytes
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, TaskFile


@dataclass(frozen=True)
class IncomingTask:
    """A task file that was read and parsed, and is in no bundle yet."""

    file: TaskFile
    data: bytes = field(repr=False)
    """The bytes that were parsed."""

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.file.name

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hash_bytes(self.data)


def read_incoming(sources: Iterable[str | os.PathLike[str]]) -> list[IncomingTask]:
    """Read task files, all of them before the first is parsed.

    Raises:
        InputError: there is none, or two of them hold the same task.
        CorruptFileError: one is no task file.
    """
    paths = [user_path(source) for source in sources]
    if not paths:
        raise InputError("no task file is named; pass at least one.")
    contents = [read_small(path, MAX_TASK_BYTES) for path in paths]
    tasks = [IncomingTask(TaskFile.parse(data, str(path)), data) for path, data in zip(paths, contents, strict=True)]
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two of the files hold the task {twice!r}; leave one out.")
    return tasks
