"""Changing a bundle folder: installing, rolling back and removing tasks.

A file that is a link is replaced or removed as a link. The file that it leads to stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from mpt_edge._locks import MAX_WAIT, locked
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.history import Action
from mpt_edge.formats.incoming import IncomingTask, read_incoming
from mpt_edge.formats.manifest import PREVIOUS
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, TaskFile
from mpt_edge.formats.transaction import Transaction, reporting_failures
from mpt_edge.formats.vectors import SUFFIX, task_key

#: File that is locked during a change.
LOCK = ".lock"


class Bundle(BundleReader):
    """An opened bundle folder, to read and to change.

    Each change happens as a whole or not at all, whatever stops it. Another process's change is waited for.

    >>> bundle = Bundle.open("models/minilm-l6")
    >>> bundle.task_names[:3]
    ['banking77', 'clinc150', 'sms_spam']
    """

    def check_install(self, tasks: Sequence[IncomingTask], *, allow_downgrade: bool = False) -> None:
        """Check that tasks belong to this bundle, and that their versions rise.

        Args:
            tasks: the tasks.
            allow_downgrade: let a version through that is not above the highest that was installed.

        Raises:
            MismatchError: a task belongs to another bundle, or its version does not rise.
        """
        for task in tasks:
            self.check_fit(task.file)
            if not allow_downgrade and not self._rises(task):
                raise _stale(task.file, self.manifest.releases[task.name]["version"])

    def install_untested(
        self,
        *sources: str | os.PathLike[str] | IncomingTask,
        allow_downgrade: bool = False,
        wait: float = MAX_WAIT,
    ) -> list[TaskFile]:
        """Add task files to the bundle in one change, without asking them anything; apps call `Model.install`.

        Tasks of the same names are replaced. A replaced task that could be used is kept, for `rollback`.

        Args:
            sources: the files, or tasks that were read from some.
            allow_downgrade: let a version through that is not above the highest that was installed.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            CorruptFileError: a file is no task file.
            MismatchError: a task belongs to another bundle, or its version does not rise.
            InputError: two files hold the same task, the bundle cannot be written, or the wait was too short.
        """
        read = [each for each in sources if isinstance(each, IncomingTask)]
        paths = [each for each in sources if not isinstance(each, IncomingTask)]
        tasks = read_incoming(paths) if paths or not read else read
        with self._changing(wait) as change:
            self.check_install(tasks, allow_downgrade=allow_downgrade)
            for task in tasks:
                self._add(change, task)
        return [task.file for task in tasks]

    def rollback(self, task: str, *, wait: float = MAX_WAIT) -> TaskFile:
        """Restore the task file that the last `install` replaced; a second call undoes the first.

        A file that is missing or damaged is not kept for that second call.

        Args:
            task: the task's name.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            UnknownTaskError: there is no such task.
            InputError: it was never replaced, the bundle cannot be written, or the wait was too short.
            CorruptFileError: the kept file is damaged.
        """
        now, before = task_key(task), previous_key(task)
        with self._changing(wait) as change:
            self._check_known(task)
            if before not in self.manifest.files:
                raise InputError(f"{task!r} has no earlier version in {self.folder}; install the file you want.")
            restored = TaskFile.parse(self.read(before, MAX_TASK_BYTES), str(self._stored(before)))
            self.check_fit(restored)
            change.copy(now, before)
            if self._is_whole(now):
                change.copy(before, now)
            else:
                change.drop(before)
            change.record(Action.ROLLBACK, task, restored.version, change.files[now]["sha256"])
        return restored

    def remove(self, task: str, *, wait: float = MAX_WAIT) -> None:
        """Remove a task, and the version that it replaced. Its highest version is remembered.

        Args:
            task: the task's name.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            UnknownTaskError: there is no such task.
            InputError: the bundle cannot be written, or the wait was too short.
        """
        with self._changing(wait) as change:
            self._check_known(task)
            removed = self._installed(task)
            sha256 = change.files[task_key(task)]["sha256"]
            change.drop(task_key(task))
            change.drop(previous_key(task))
            version = None if removed is None else removed.version
            change.record(Action.REMOVE, task, version, sha256)

    def _add(self, change: Transaction, task: IncomingTask) -> None:
        """Prepare to install a task."""
        name, key = task.name, task_key(task.name)
        if self._installed(name) is not None and self.manifest.files[key]["sha256"] != task.sha256:
            change.copy(previous_key(name), key)
        change.write(key, name, task.data)
        change.release(name, task.file.version, task.sha256)
        change.record(Action.INSTALL if self._rises(task) else Action.DOWNGRADE, name, task.file.version, task.sha256)

    def _rises(self, task: IncomingTask) -> bool:
        """Whether a task is newer than any of its name that was installed, or repairs what is installed."""
        listed, release = self.manifest.files.get(task_key(task.name)), self.manifest.releases.get(task.name)
        if release is None or (listed is not None and listed["sha256"] == task.sha256):
            return True
        return task.file.version > release["version"] or (task.file.version, task.sha256) == (
            release["version"],
            release["sha256"],
        )

    def _installed(self, name: str) -> TaskFile | None:
        """Return the installed task of that name; None for one that is missing or needs repair."""
        try:
            return self.task(name)
        except CorruptFileError as error:
            _check_damaged(error)
            return None
        except (UnknownTaskError, MismatchError):
            return None

    def _is_whole(self, key: str) -> bool:
        try:
            self.read(key, MAX_TASK_BYTES)
        except CorruptFileError as error:
            _check_damaged(error)
            return False
        return True

    @contextlib.contextmanager
    def _changing(self, wait: float) -> Iterator[Transaction]:
        """Prepare a change under the lock, with the manifest read again, and make it if the block succeeds."""
        with reporting_failures(self.folder), locked(self.folder / LOCK, wait):
            self.reload()
            change = Transaction(self.folder, self.manifest)
            yield change
            pins = self.pins
            self.pins = pins and pins | {change.digest}  # a reader in another thread sees either manifest
            try:
                self.manifest = change.commit()
            except BaseException:
                self.pins = pins
                raise
            self.pins = pins and frozenset({self.manifest.digest})


def previous_key(task: str) -> str:
    """Return the name under which a manifest lists the file that a task replaced."""
    return f"{PREVIOUS}/{task}{SUFFIX}"


def _check_damaged(error: CorruptFileError) -> None:
    """Raise the error again unless the file itself is damaged: too many open files, say, pass."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno not in {errno.ENOENT, errno.EIO}:
        raise error


def _stale(task: TaskFile, highest: int) -> MismatchError:
    """Return the error for a version that does not rise."""
    reason = "with other content" if task.version == highest else f"and this is version {task.version}"
    return MismatchError(
        f"{task.name!r} was installed in version {highest}, {reason}; train it with --task-version {highest + 1}, or "
        "pass --allow-downgrade (in Python: allow_downgrade=True)."
    )
