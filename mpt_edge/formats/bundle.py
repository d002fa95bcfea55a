"""Changing a bundle folder: installing, rolling back and removing tasks.

A file that is a link is replaced or removed as a link. The file that it leads to stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence

from mpt_edge.errors import CorruptFileError, InputError, MismatchError, SignatureError, UnknownTaskError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.history import Action
from mpt_edge.formats.incoming import IncomingTask, read_incoming
from mpt_edge.formats.key_rotation import KeyRotation, PinnedKeys, sequence_now
from mpt_edge.formats.locks import MAX_WAIT, locked
from mpt_edge.formats.manifest import PREVIOUS
from mpt_edge.formats.public_keys import check_keys
from mpt_edge.formats.signature import check_signature
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
    ['banking77', 'clinc150', 'cr']
    """

    def check_install(
        self, tasks: Sequence[IncomingTask], *, require_keys: Sequence[str] = (), allow_downgrade: bool = False
    ) -> None:
        """Check that tasks belong to this bundle, are signed as required, and that their versions rise.

        Args:
            tasks: the tasks.
            require_keys: public keys one of which must have signed each task, whatever the bundle pins.
            allow_downgrade: let a version through that is not above the highest that was installed.

        Raises:
            MismatchError: a task belongs to another bundle, or its version does not rise.
            SignatureError: a task is not signed as required, or its signature has expired.
        """
        for task in tasks:
            self.check_fit(task.file)
            self.check_signer(task.file, require_keys, is_new=True)
            if not allow_downgrade and not self._rises(task):
                raise _stale(task.file, self.manifest.releases[task.name]["version"])

    def install_untested(
        self,
        *sources: str | os.PathLike[str] | IncomingTask,
        require_keys: Sequence[str] = (),
        allow_downgrade: bool = False,
        wait: float = MAX_WAIT,
    ) -> list[TaskFile]:
        """Add task files to the bundle in one change, without asking them anything; apps call `Model.install`.

        Tasks of the same names are replaced. A replaced task that could be used is kept, for `rollback`.

        Args:
            sources: the files, or tasks that were read from some.
            require_keys: public keys one of which must have signed each task, whatever the bundle pins.
            allow_downgrade: let a version through that is not above the highest that was installed.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            CorruptFileError: a file is no task file.
            MismatchError: a task belongs to another bundle, or its version does not rise.
            SignatureError: a task is not signed as required, or its signature has expired.
            InputError: two files hold the same task, the bundle cannot be written, or the wait was too short.
        """
        read = [each for each in sources if isinstance(each, IncomingTask)]
        paths = [each for each in sources if not isinstance(each, IncomingTask)]
        tasks = read_incoming(paths) if paths or not read else read
        with self._changing(wait) as change:
            self.check_install(tasks, require_keys=require_keys, allow_downgrade=allow_downgrade)
            for task in tasks:
                self._add(change, task, has_signer=bool(require_keys))
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
            sha256 = change.files[now]["sha256"]
            change.record(Action.ROLLBACK, task, restored.version, sha256, self._signer(restored))
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

    def pin(self, keys: Iterable[str], *, sequence: int | None = None, wait: float = MAX_WAIT) -> PinnedKeys:
        """Pin public keys beside those that are pinned: from now on one of them must have signed each task.

        Args:
            keys: the keys, ``ed25519:`` and base64.
            sequence: number that rotations must exceed; None for the present one, or the time in milliseconds.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            InputError: a key is none, the bundle cannot be written, or the wait was too short.
            SignatureError: a task of the bundle is not signed by any of them.
        """
        with self._changing(wait) as change:
            now = self.manifest.keys
            number = (now.sequence if now else sequence_now()) if sequence is None else sequence
            pinned = PinnedKeys.of([*(now.keys if now else ()), *check_keys(keys)], number)
            self._pin(change, pinned)
        return pinned

    def unpin(self, keys: Iterable[str], *, wait: float = MAX_WAIT) -> PinnedKeys | None:
        """Stop to trust public keys; with none left, signatures are not checked any more.

        Args:
            keys: pinned keys.
            wait: seconds to wait for another process that changes the bundle.

        Raises:
            InputError: a key is not pinned, the bundle cannot be written, or the wait was too short.
            SignatureError: a task of the bundle is not signed by any of those that are left.
        """
        given = check_keys(keys)
        with self._changing(wait) as change:
            now = self.manifest.keys
            known = now.keys if now else ()
            unknown = next((key for key in given if key not in known), None)
            if unknown is not None:
                raise InputError(f"{self.folder} does not pin {unknown}; see `mpt-edge keys list`.")
            left = [key for key in known if key not in given]
            pinned = PinnedKeys.of(left, now.sequence) if now and left else None
            self._pin(change, pinned)
        return pinned

    def rotate(self, rotation: KeyRotation, *, wait: float = MAX_WAIT) -> list[str]:
        """Replace the pinned keys by those of a rotation, as one change.

        Args:
            rotation: the document; see `KeyRotation`.
            wait: seconds to wait for another process that changes the bundle.

        Returns:
            Names of tasks that none of the new keys signed. They are refused until they are installed again.

        Raises:
            InputError: the bundle pins no keys, cannot be written, or the wait was too short.
            SignatureError: no pinned key signed the rotation, or its number does not rise.
        """
        with self._changing(wait) as change:
            if self.manifest.keys is None:
                raise InputError(f"{self.folder} pins no keys to replace; pin some with `mpt-edge keys pin`.")
            rotation.check(self.manifest.keys)
            change.pin(rotation.new, rotation.signer)
        return [name for name in self.task_names if self._lacks_signature(name)]

    def _lacks_signature(self, name: str) -> bool:
        try:
            self.task(name)
        except SignatureError:
            return True
        except (CorruptFileError, MismatchError, UnknownTaskError):  # that is another problem, or another's change
            return False
        return False

    def _pin(self, change: Transaction, keys: PinnedKeys | None) -> None:
        """Prepare to pin keys, or none. Raises SignatureError for a task that none of them signed."""
        for name in self.task_names if keys else ():
            check_signature(name, self.task(name).signature, keys.keys if keys else ())
        change.pin(keys)

    def _add(self, change: Transaction, task: IncomingTask, *, has_signer: bool) -> None:
        """Prepare to install a task; its signature was checked if a key was required."""
        name, key = task.name, task_key(task.name)
        is_same = key in self.manifest.files and self.manifest.files[key]["sha256"] == task.sha256
        installed = None if is_same else self._installed(name)
        if installed is not None and installed.digest != task.file.digest:  # a new signature alone is no new version
            change.copy(previous_key(name), key)
        if not (is_same and self._is_whole(key)):
            change.write(key, name, task.data)
        change.release(name, task.file.version, task.file.digest)
        action = Action.INSTALL if self._rises(task) else Action.DOWNGRADE
        change.record(action, name, task.file.version, task.sha256, self._signer(task.file, is_checked=has_signer))

    def _signer(self, task: TaskFile, *, is_checked: bool = False) -> str | None:
        """Return the key whose signature of a task was checked."""
        return task.signature.key if task.signature and (self.manifest.keys or is_checked) else None

    def _rises(self, task: IncomingTask) -> bool:
        """Whether a task is newer than any of its name that was installed, or repairs or signs the newest anew."""
        listed, release = self.manifest.files.get(task_key(task.name)), self.manifest.releases.get(task.name)
        if release is None or (listed is not None and listed["sha256"] == task.sha256):
            return True
        return task.file.version > release["version"] or (task.file.version, task.file.digest) == (
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
        f"{task.name!r} was installed in version {highest}, {reason}; train or import it with --task-version "
        f"{highest + 1}, or pass --allow-downgrade (in Python: allow_downgrade=True)."
    )
