"""Paths as users write them, atomic writes and size-limited reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mpt_edge.errors import CorruptFileError, InputError

_CHUNK = 1 << 20


def user_path(path: object) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home folder.

    Every path of the command and of the Python API is read so. As in shells, ``~user`` stays as it is
    where there is no such user.

    Raises:
        InputError: it is no path, or this process has no home folder.
    """
    try:
        given = Path(path)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{path!r} is no path; pass a str or a pathlib.Path.") from None
    if "\0" in str(given):
        raise InputError(f"{str(given)!r} is no path, since it holds a null character; correct it.")
    try:
        result = given.expanduser()
    except RuntimeError:
        result = given
    if given.parts[:1] == ("~",) and not result.is_absolute():
        raise InputError(f"{given} starts from a home folder, and there is none; set HOME, or write the whole path.")
    return result


def cache_folder() -> Path | None:
    """Return this user's cache folder of mpt-edge; None for a user without a home folder."""
    from platformdirs import user_cache_path  # imported here, since apps name their bundle

    try:
        folder = user_cache_path("mpt-edge")
    except (RuntimeError, OSError, KeyError):  # as versions of platformdirs put it
        return None
    return folder if folder.is_absolute() else None  # older ones return a folder named "~"


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks. Raises CorruptFileError for one that cannot be read."""
    digest = hashlib.sha256()
    with _reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_readable(path: Path) -> None:
    """Check that a file may be read, where a library would blame its content. Raises CorruptFileError."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error


def check_listable(folder: Path) -> None:
    """Check that a folder, if it is there, may be listed; patterns find nothing otherwise. Raises CorruptFileError."""
    try:
        next(folder.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(path: Path, error: OSError) -> CorruptFileError:
    """Return the error for a file that the system does not let us read."""
    fix = "change its permissions" if isinstance(error, PermissionError) else "check the path, or restore the file"
    return CorruptFileError(f"cannot read {path} ({error.strerror or error}); {fix}.")


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
        raise unreadable(path, error) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds.

    The bytes are on disk before the rename. A crash leaves either the old file or the new one. The rename
    itself is on disk after `sync_folder`.

    Raises:
        InputError: the path is a folder.
        OSError: it cannot be written; the error names ``path``.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass the path of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666))  # the umask decides who may read it
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename, error.filename2 = str(path), None  # nobody knows the temporary name
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
