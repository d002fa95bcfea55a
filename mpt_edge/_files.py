"""Atomic writes and size-limited reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mpt_edge.errors import CorruptFileError

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks. Raises CorruptFileError for one that cannot be read."""
    digest = hashlib.sha256()
    with _reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_small(path: Path, limit: int) -> bytes:
    """Return a file's bytes; refuse one larger than ``limit`` bytes before reading it.

    Raises:
        CorruptFileError: the file is missing, unreadable or too large.
    """
    with _reading(path):
        size = path.stat().st_size
        if size > limit:
            raise CorruptFileError(
                f"{path} has {size:,} bytes, more than the {limit:,} such a file may have; "
                "replace it with the original."
            )
        return path.read_bytes()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the system's errors into one sentence. Raises CorruptFileError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CorruptFileError(f"cannot read {path} ({reason}); check the path, or restore the file.") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds.

    The bytes are on disk before the rename. A crash leaves either the old file or the new one. The rename
    itself is on disk after `sync_folder`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666))  # the umask decides who may read it
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk, so that renames and deletions in it survive a power cut."""
    if os.name == "nt":  # Windows opens no folders, and writes their entries through
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def temporary_target(name: str) -> str | None:
    """Return the file name for which `atomic_write` made a temporary name; None for any other name."""
    target, _, token = name.removeprefix(".").rpartition(".")
    is_ours = name.startswith(".") and len(token) == 8 and set(token) <= set("0123456789abcdef")
    return target if is_ours and target else None
