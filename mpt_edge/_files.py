"""Paths as users write them, atomic writes and size-limited reads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    with _reading(path), open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_readable(path: Path) -> None:
    """Check that a file may be read, where a library would blame its content. Raises CorruptFileError."""
    try:
        open_regular(path).close()
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


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading. Anything else is refused without waiting for it.

    A pipe without a writer would wait for ever, and a device may have no end.

    Raises:
        CorruptFileError: it is a folder, a pipe, a socket or a device.
        OSError: the system does not let us read it.
    """
    _check_regular(path, path.stat().st_mode)  # before it is opened, which a device may notice
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise CorruptFileError(f"cannot read {path}, which is {_kind(mode)}; pass a regular file.")


def _kind(mode: int) -> str:
    """Return the kind of a file that is no regular one, in words."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_small(path: Path, limit: int) -> bytes:
    """Return a regular file's bytes; refuse one larger than ``limit`` bytes before reading it.

    Raises:
        CorruptFileError: the file is missing, unreadable, too large or no regular file.
    """
    with _reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
        if max(size, len(data)) > limit:  # it may have grown since
            raise CorruptFileError(
                f"{path} has {max(size, len(data)):,} bytes, more than the {limit:,} such a file may have; "
                "replace it with the original."
            )
        return data


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the system's errors into one sentence. Raises CorruptFileError."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def mode_of(path: Path) -> int | None:
    """Return the permissions of a file, of a link's target; None where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def create(path: Path, mode: int | None = None) -> int:
    """Create a file and return its handle for writing; never through a link.

    Args:
        path: its path, where nothing may be.
        mode: permissions that it gets once it is written, until when it is its owner's; None for those of the umask.

    Raises:
        OSError: something is there, or it cannot be written.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666 if mode is None else 0o600)


@contextlib.contextmanager
def atomic_write(path: Path, like: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds.

    The bytes are on disk before the rename. A crash leaves either the old file or the new one. The rename
    itself is on disk after `sync_folder`. The new file has the permissions of the old one.

    Args:
        path: the file.
        like: the file whose permissions it gets, present or not; None for ``path`` itself.

    Raises:
        InputError: the path is a folder, a pipe, a socket or a device.
        OSError: it cannot be written; the error names ``path``.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is {_kind(path.stat().st_mode)}; pass the path of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    mode = mode_of(like or path)
    try:
        os.close(create(temporary, mode))
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
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


@contextlib.contextmanager
def error_names(name: str) -> Iterator[None]:
    """Name the file in an error that has no name, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


def temporary_target(name: str) -> str | None:
    """Return the file name for which `atomic_write` made a temporary name; None for any other name."""
    target, _, token = name.removeprefix(".").rpartition(".")
    is_ours = name.startswith(".") and len(token) == 8 and set(token) <= set("0123456789abcdef")
    return target if is_ours and target else None
