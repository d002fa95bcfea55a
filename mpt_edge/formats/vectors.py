"""Folders with ``prompts/`` and ``tasks/``, as training leaves them and bundles have them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mpt_edge._files import check_listable, user_path
from mpt_edge.errors import CorruptFileError, InputError, MismatchError
from mpt_edge.formats.manifest import MANIFEST, Manifest, Release, read_manifest
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile

#: Subfolders, and the suffix of every file in them.
PROMPTS, TASKS, SUFFIX = "prompts", "tasks", ".safetensors"

#: Subfolder of a bundle with the tasks that were installed since its export.
INSTALLED = "installed"


def prompt_key(name: str) -> str:
    """Return the path of a shared prompt within its folder, as a manifest writes it."""
    return f"{PROMPTS}/{name}{SUFFIX}"


def task_key(name: str) -> str:
    """Return the path of a task within its folder, as a manifest writes it."""
    return f"{TASKS}/{name}{SUFFIX}"


def task_names(keys: Iterable[str]) -> list[str]:
    """Return the names of the tasks among a manifest's files, sorted."""
    return sorted(name for key in keys if key == task_key(name := PurePosixPath(key).stem))


def releases_of(tasks: Iterable[TaskFile]) -> dict[str, Release]:
    """Return the releases of tasks that were read from files."""
    return {task.name: Release(version=task.version, sha256=task.digest) for task in tasks}


@dataclass(frozen=True)
class VectorFolder:
    """Shared prompts and tasks in one folder; a missing folder has none.

    A bundle is such a folder too: its manifest leads to the tasks that were installed. Only `mpt_edge.Bundle`
    compares its files with the manifest.
    """

    path: Path

    def __post_init__(self) -> None:
        """Replace a leading ``~``. Raises InputError for a value that is no path."""
        object.__setattr__(self, "path", user_path(self.path))

    def prompt_path(self, name: str) -> Path:
        """Return the path of a shared prompt, present or not."""
        return self.path / prompt_key(name)

    def task_path(self, name: str) -> Path:
        """Return the path of a task, present or not."""
        return self.task_files.get(name, self.path / task_key(name))

    @property
    def prompt_files(self) -> dict[str, Path]:
        """Files of the shared prompts by name, in the order of their paths."""
        return self._files(PROMPTS)

    @property
    def task_files(self) -> dict[str, Path]:
        """Files of the tasks by name, in the order of the names."""
        plain, manifest = self._files(TASKS), self._manifest()
        if manifest is None:
            return plain
        retired = {self.path / path for path in manifest.retired}
        kept = {name: path for name, path in plain.items() if path not in retired}
        stored = {name: manifest.stored(task_key(name)) for name in task_names(manifest.files)}
        moved = {name: self.path / path for name, path in stored.items() if path != task_key(name)}
        return dict(sorted((kept | moved).items(), key=lambda item: task_key(item[0])))

    @property
    def files_by_key(self) -> dict[str, Path]:
        """All files by the path that an export gives them, prompts first."""
        prompts = {prompt_key(name): path for name, path in self.prompt_files.items()}
        return prompts | {task_key(name): path for name, path in self.task_files.items()}

    @property
    def files(self) -> list[Path]:
        """All files, prompts first."""
        return list(self.files_by_key.values())

    def prompts(self) -> dict[str, SharedPrompt]:
        """Read all shared prompts. Raises CorruptFileError for a file that is none."""
        return {name: SharedPrompt.load(path) for name, path in self.prompt_files.items()}

    def tasks(self) -> dict[str, TaskFile]:
        """Read all tasks. Raises CorruptFileError for a file that is none."""
        return {name: TaskFile.load(path) for name, path in self.task_files.items()}

    def save(self, item: SharedPrompt | TaskFile) -> Path:
        """Write a shared prompt or a task under its name, atomically, and return its path."""
        path = self.path / (task_key if isinstance(item, TaskFile) else prompt_key)(item.name)
        item.save(path)
        return path

    def find_prompt(self, name: str | None = None) -> SharedPrompt:
        """Return a shared prompt, or the composed prompt of a task that carries its own.

        Args:
            name: name of the prompt or of the task; None where there is only one.

        Raises:
            InputError: there is none of that name, or there are several and none is named.
        """
        files = self.prompt_files
        own: dict[str, SharedPrompt] = {}
        if not files or (name and name not in files):
            own = {task.name: prompt for task in self.tasks().values() if (prompt := _composed_prompt(task))}
        known = [*files, *own]
        chosen = name or (known[0] if len(known) == 1 else None)
        if chosen in files:
            return SharedPrompt.load(files[chosen])
        if chosen in own:
            return own[chosen]
        if name or not known:
            raise InputError(f"{self.path} holds no prompt {name or ''}".rstrip() + "; pass a bundle or a source run.")
        raise InputError(f"{self.path} holds several prompts; name one with --prompt: {', '.join(known)}.")

    def prompt_of(self, task: TaskFile) -> SharedPrompt:
        """Return the prompt that a task scales: its own, or a shared one of this folder.

        Raises:
            InputError: the shared prompt is not in the folder.
            MismatchError: another prompt has its name here.
        """
        if task.own_prompt is not None:
            return task.own_prompt
        path = self.prompt_path(task.prompt or "")
        if not path.is_file():
            raise InputError(
                f"{self.path} lacks the prompt {task.prompt!r} of its task {task.name!r}; copy it to {path}."
            )
        shared = SharedPrompt.load(path)
        if shared.fingerprint != task.prompt_sha256:
            raise MismatchError(f"the task {task.name!r} scales another prompt than {path}; copy the right one there.")
        return shared

    def _manifest(self) -> Manifest | None:
        """Return a bundle's manifest; None where there is none, or where no installed task depends on it."""
        path, installed = self.path / MANIFEST, self.path / INSTALLED
        if not path.is_file():
            return None
        try:
            return read_manifest(path)
        except CorruptFileError as error:
            if not installed.is_dir():
                return None
            raise CorruptFileError(
                f"{path} cannot be used, and only it names the installed tasks; restore it, or delete {installed} to "
                "go on without them."
            ) from error

    def _files(self, kind: str) -> dict[str, Path]:
        folder = self.path / kind
        check_listable(folder)
        return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _composed_prompt(task: TaskFile) -> SharedPrompt | None:
    """Return the composed prompt of a task that carries its own, for other tasks to scale."""
    own = task.own_prompt
    return own and replace(own, values=compose(own.values, task.u, task.v), head=None)
