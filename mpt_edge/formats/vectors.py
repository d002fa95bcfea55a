"""A folder of vectors: ``prompts/`` and ``tasks/``, as training leaves them and a bundle has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile

#: Folders within it, and how every file's name ends.
PROMPTS, TASKS, SUFFIX = "prompts", "tasks", ".safetensors"


def prompt_key(name: str) -> str:
    """Return where a shared prompt lies in a folder of vectors, as a bundle's manifest writes it."""
    return f"{PROMPTS}/{name}{SUFFIX}"


def task_key(name: str) -> str:
    """Return where a task lies in a folder of vectors, as a bundle's manifest writes it."""
    return f"{TASKS}/{name}{SUFFIX}"


def task_names(keys: Iterable[str]) -> list[str]:
    """Return the names of the tasks among a manifest's files, sorted."""
    return sorted(name for key in keys if key == task_key(name := PurePosixPath(key).stem))


@dataclass(frozen=True)
class VectorFolder:
    """Shared prompts and tasks in one folder; a folder that is not there yet has none.

    A bundle is such a folder too, but what is read from here is not held against its manifest, which
    `mpt_edge.formats.bundle.Bundle` does.

    Attributes:
        path: the folder that ``prompts/`` and ``tasks/`` lie in.
    """

    path: Path

    def prompt_path(self, name: str) -> Path:
        """Return where a shared prompt of that name lies, or would lie."""
        return self.path / prompt_key(name)

    def task_path(self, name: str) -> Path:
        """Return where a task of that name lies, or would lie."""
        return self.path / task_key(name)

    @property
    def prompt_files(self) -> dict[str, Path]:
        """The files of the shared prompts by name, in the order of their paths."""
        return self._files(PROMPTS)

    @property
    def task_files(self) -> dict[str, Path]:
        """The files of the tasks by name, in the order of their paths."""
        return self._files(TASKS)

    @property
    def files(self) -> list[Path]:
        """All files of vectors, prompts first."""
        return [*self.prompt_files.values(), *self.task_files.values()]

    def prompts(self) -> dict[str, SharedPrompt]:
        """Read all shared prompts. Raises CorruptFileError where a file is none."""
        return {name: SharedPrompt.load(path) for name, path in self.prompt_files.items()}

    def tasks(self) -> dict[str, TaskFile]:
        """Read all tasks. Raises CorruptFileError where a file is none."""
        return {name: TaskFile.load(path) for name, path in self.task_files.items()}

    def save(self, item: SharedPrompt | TaskFile) -> Path:
        """Write a shared prompt or a task under its name, atomically, and return where it lies."""
        path = self.task_path(item.name) if isinstance(item, TaskFile) else self.prompt_path(item.name)
        item.save(path)
        return path

    def _files(self, kind: str) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.path / kind).glob(f"*{SUFFIX}"))}
