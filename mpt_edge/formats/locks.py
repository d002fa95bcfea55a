"""A lock between processes that ends with its process."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mpt_edge.errors import InputError

#: Seconds to wait for another process, unless the caller says otherwise.
MAX_WAIT = 30.0

#: Seconds between two attempts. A change takes a few milliseconds on a fast disk.
_PAUSE = 0.005

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def locked(path: Path, wait: float = MAX_WAIT) -> Iterator[None]:
    """Hold the lock of a file; the system releases it when the process ends, however it ends.

    The file exists while the lock is held. One that is left by a killed process locks nothing.

    Args:
        path: the file, present or not.
        wait: seconds to wait for another process that holds it.

    Raises:
        InputError: another process held it all that time.
        OSError: the file cannot be opened.
    """
    handle = _acquire(path, wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file; the next holder will find it
            if _is_current(path, handle):
                path.unlink()
        os.close(handle)


def _acquire(path: Path, wait: float) -> int:
    """Return the handle of the locked file."""
    deadline = time.monotonic() + wait
    while True:
        handle = _open(path)
        if _try_lock(handle) and _is_current(path, handle):
            return handle
        os.close(handle)
        if time.monotonic() >= deadline:
            raise InputError(
                f"another process has been changing {path.parent} for {wait:g} s; try again when it has ended."
            )
        time.sleep(_PAUSE)


def _open(path: Path) -> int:
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags | os.O_RDWR, 0o666)
    except PermissionError:  # another user's process was killed; reading is enough to lock, except on NFS
        return os.open(path, flags | os.O_RDONLY, 0o666)


def _is_current(path: Path, handle: int) -> bool:
    """Whether an open file is still the one at its path, which its last holder may have deleted."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
