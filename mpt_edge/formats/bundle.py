"""Changing a bundle folder: installing, rolling back and removing tasks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from mpt_edge._files import atomic_write, read_small, user_path
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle_reader import MANIFEST, BundleReader, hash_bytes
from mpt_edge.formats.manifest import FileEntry
from mpt_edge.formats.taskfile import MAX_TASK_BYTES, TaskFile
from mpt_edge.formats.vectors import SUFFIX, task_key

#: Subfolder of the task files that installs replaced.
PREVIOUS = "previous"

#: File that one writer holds.
LOCK = ".lock"


class Bundle(BundleReader):
    """An opened bundle folder, to read and to change.

    >>> bundle = Bundle.open("models/minilm-l6")
    >>> bundle.task_names[:3]
    ['banking77', 'clinc150', 'sms_spam']
    """

    def install(self, source: str | os.PathLike[str]) -> TaskFile:
        """Add a task file to the bundle, or replace one of the same name.

        A replaced task that could be used is kept, for `rollback`.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it belongs to another bundle, or is older than the installed version.
        """
        file = user_path(source)
        data = read_small(file, MAX_TASK_BYTES)
        task = TaskFile.parse(data, str(file))
        with self._locked():
            self.check_fit(task)
            installed = self._installed(task.name)
            if installed is not None and installed.version > task.version:
                raise MismatchError(
                    f"{task.name!r} is installed in a newer version than {task.version}; remove it first to go back."
                )
            files = {task_key(task.name): data}
            if installed is not None:
                old = self.read(task_key(task.name), MAX_TASK_BYTES)
                files |= {_previous_key(task.name): old} if old != data else {}
            self._put(files)
        return task

    def rollback(self, task: str) -> TaskFile:
        """Restore the task file that the last `install` replaced; a second call undoes the first.

        A file that is missing or damaged is not kept for that second call.

        Raises:
            UnknownTaskError: there is no such task.
            InputError: it was never replaced.
            CorruptFileError: the kept file is damaged.
        """
        with self._locked():
            now, before = task_key(task), _previous_key(task)
            self._check_known(task)
            if before not in self.manifest.files:
                raise InputError(f"{task!r} has no earlier version in {self.folder}; install the file you want.")
            old = self.read(before, MAX_TASK_BYTES)
            restored = TaskFile.parse(old, str(self.folder / before))
            self.check_fit(restored)
            files = {now: old}
            with contextlib.suppress(CorruptFileError):
                files[before] = self.read(now, MAX_TASK_BYTES)
            gone = {before} - set(files)
            self._put(files, gone)
            self._delete(gone)
        return restored

    def remove(self, task: str) -> None:
        """Remove a task, and the version that it replaced. Raises UnknownTaskError."""
        with self._locked():
            self._check_known(task)
            gone = (task_key(task), _previous_key(task))
            self._write({path: entry for path, entry in self.manifest.files.items() if path not in gone})
            self._delete(gone)
            with contextlib.suppress(OSError):  # other tasks have files there, or it never existed
                (self.folder / PREVIOUS).rmdir()

    def _installed(self, name: str) -> TaskFile | None:
        """Return the installed task of that name; None for one that is missing or needs repair."""
        try:
            return self.task(name)
        except (UnknownTaskError, CorruptFileError, MismatchError):
            return None

    def _put(self, contents: Mapping[str, bytes], gone: Collection[str] = ()) -> None:
        """Write small files, then the manifest that lists them and drops those that are gone."""
        for name, data in contents.items():
            with atomic_write(self.folder / name) as temporary:
                temporary.write_bytes(data)
        entries = {name: FileEntry(sha256=hash_bytes(data), size=len(data)) for name, data in contents.items()}
        listed = {name: entry for name, entry in self.manifest.files.items() if name not in gone}
        self._write({**listed, **entries})

    def _delete(self, names: Collection[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the bundle for one writer, with the manifest read again under the lock."""
        lock = self.folder / LOCK
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL)
        except FileExistsError as error:
            raise InputError(
                f"another process is changing {self.folder}; wait, or delete {lock} if none is."
            ) from error
        except OSError as error:
            raise InputError(
                f"cannot write into {self.folder} ({error.strerror}); check its permissions, or change a copy of it."
            ) from error
        try:
            self.reload()
            yield
        finally:
            os.close(handle)
            lock.unlink(missing_ok=True)

    def _write(self, files: Mapping[str, FileEntry]) -> None:
        manifest = replace(self.manifest, files=dict(sorted(files.items())))
        with atomic_write(self.folder / MANIFEST) as temporary:
            temporary.write_text(manifest.to_json(), encoding="utf-8")
        self.manifest = manifest


def _previous_key(task: str) -> str:
    return f"{PREVIOUS}/{task}{SUFFIX}"
