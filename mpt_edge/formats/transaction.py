"""One change to a bundle: new files beside the old ones, then one rename of the manifest.

Whenever the process or the machine stops, the manifest on disk is the old or the new one, and each file that it
lists is whole. Files that a change no longer lists stay until the next one, for readers of the old manifest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpt_edge._files import atomic_write, sync_folder, temporary_target
from mpt_edge.errors import InputError, MptEdgeError
from mpt_edge.formats.bundle_reader import hash_bytes
from mpt_edge.formats.history import MAX_RECORDS, Action, ChangeRecord, timestamp
from mpt_edge.formats.key_rotation import PinnedKeys
from mpt_edge.formats.manifest import MANIFEST, MAX_MANIFEST, FileEntry, Manifest, Release, read_manifest
from mpt_edge.formats.vectors import INSTALLED, SUFFIX, TASKS

#: Names of the files in `INSTALLED`: the task, and the first half of its hash.
_INSTALLED_NAME = re.compile(r".+\.[0-9a-f]{32}" + re.escape(SUFFIX))

_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "let this user write there",
}


@dataclass
class Transaction:
    """A change that is prepared in memory; nothing on disk differs before `commit`."""

    folder: Path
    manifest: Manifest
    files: dict[str, FileEntry] = field(init=False)
    """The manifest's files after the change."""
    keys: PinnedKeys | None = field(init=False)
    """The pinned keys after the change."""
    releases: dict[str, Release] = field(init=False)
    """The highest version of each task after the change."""
    _contents: dict[str, bytes] = field(init=False, default_factory=dict)
    _replaced: dict[str, Path] = field(init=False, default_factory=dict)
    _records: list[ChangeRecord] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Start from the files as they are."""
        self.files, self.releases = dict(self.manifest.files), dict(self.manifest.releases)
        self.keys = self.manifest.keys

    @property
    def digest(self) -> str:
        """Digest of the bundle after the change."""
        return replace(self.manifest, files=self.files, keys=self.keys).digest

    def write(self, key: str, task: str, data: bytes) -> None:
        """List new content of a task under a key; it is written beside the present one."""
        digest, replaced = hash_bytes(data), self.files.get(key)
        stored = f"{INSTALLED}/{task}.{digest[:32]}{SUFFIX}"
        self._contents[stored] = data
        self._replaced[stored] = self.folder / (key if replaced is None else replaced.get("path", key))
        self.files[key] = FileEntry(sha256=digest, size=len(data), path=stored)

    def copy(self, key: str, source: str) -> None:
        """List the file of one key, as it is before the change, under another key too."""
        entry, stored = self.manifest.files[source], self.manifest.stored(source)
        self.files[key] = FileEntry(sha256=entry["sha256"], size=entry["size"], path=stored)
        if stored == key:
            del self.files[key]["path"]

    def drop(self, key: str) -> None:
        """List a key no longer."""
        self.files.pop(key, None)

    def release(self, task: str, version: int, sha256: str) -> None:
        """Remember the version of a task, if none above it was installed."""
        if task not in self.releases or version >= self.releases[task]["version"]:
            self.releases[task] = Release(version=version, sha256=sha256)

    def record(self, action: Action, task: str, version: int | None, sha256: str, signer: str | None = None) -> None:
        """Add a line to the history."""
        self._records.append(
            ChangeRecord(when=timestamp(), action=action, task=task, version=version, sha256=sha256, signer=signer)
        )

    def pin(self, keys: PinnedKeys | None, signer: str | None = None) -> None:
        """Pin other keys, or none; ``signer`` is the key that signed the rotation, if it was one."""
        self.keys = keys
        text = json.dumps(keys and keys.to_entries())
        self.record(Action.KEYS, "", None if keys is None else keys.sequence, hash_bytes(text.encode()), signer)

    def commit(self) -> Manifest:
        """Make the change, and return the new manifest.

        Raises:
            InputError: a folder is a link, or the manifest would become too large to be read.
            OSError: the disk refuses; the bundle stays as it was.
        """
        _check_folders(self.folder)
        sync_folder(self.folder)  # the last change may have been killed before it did; its old files go now
        remove_leftovers(self.folder, self.manifest)
        manifest = self._next_manifest()
        data = manifest.to_json().encode()
        if len(data) > MAX_MANIFEST:
            raise InputError(f"{self.folder} would list too many tasks; remove some.")
        try:
            self._write_contents()
            with atomic_write(self.folder / MANIFEST) as temporary:
                temporary.write_bytes(data)
        except BaseException:
            with contextlib.suppress(OSError, MptEdgeError):
                remove_leftovers(self.folder, read_manifest(self.folder / MANIFEST))
            raise
        with contextlib.suppress(OSError):  # the change is made, and after a power cut either manifest is whole
            sync_folder(self.folder)
        return manifest

    def _next_manifest(self) -> Manifest:
        files = dict(sorted(self.files.items()))
        changes = (*self.manifest.changes, *self._records)[-MAX_RECORDS:]
        releases = dict(sorted(self.releases.items()))
        manifest = replace(self.manifest, files=files, keys=self.keys, releases=releases, changes=changes)
        undeleted = {path for path in self.manifest.retired if (self.folder / path).exists()}
        retired = (self.manifest.stored_paths | undeleted) - manifest.stored_paths
        return replace(manifest, retired=tuple(sorted(retired)))

    def _write_contents(self) -> None:
        """Write the new files, and wait until they and their names are on disk."""
        installed = self.folder / INSTALLED
        if not self._contents:
            with contextlib.suppress(OSError):  # it is not empty, or not there
                installed.rmdir()
            return
        if not installed.is_dir():
            installed.mkdir()
            sync_folder(self.folder)
        for stored, data in self._contents.items():
            with atomic_write(self.folder / stored, like=self._replaced[stored]) as temporary:
                temporary.write_bytes(data)
        sync_folder(installed)


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Delete files of earlier changes that a manifest does not list. One that cannot be deleted stays.

    These are files that the last change retired, and those of a change that was killed. All others stay.
    """
    listed = manifest.stored_paths
    paths = [folder / path for path in manifest.retired if path not in listed]
    for name in _names(folder / INSTALLED):
        is_unlisted = _INSTALLED_NAME.fullmatch(name) and f"{INSTALLED}/{name}" not in listed
        if is_unlisted or temporary_target(name):
            paths.append(folder / INSTALLED / name)
    paths += [folder / name for name in _names(folder) if temporary_target(name) == MANIFEST]
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:  # it is not there, or closed to this user
        return []


def _check_folders(folder: Path) -> None:
    """Refuse to write or delete through links. Raises InputError."""
    for name in (INSTALLED, TASKS):
        if (folder / name).is_symlink():
            raise InputError(f"{folder / name} is a link, through which nothing is changed; replace it by the folder.")


@contextlib.contextmanager
def reporting_failures(folder: Path) -> Iterator[None]:
    """Turn the system's errors during a change into one sentence. Raises InputError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MptEdgeError):
            raise
        reason = error.strerror or str(error)
        fix = _FIXES.get(error.errno or 0, "check the disk")
        raise InputError(
            f"{folder} could not be changed and stays as it was ({reason}); {fix}, and try again."
        ) from error
