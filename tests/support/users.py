"""The command as a user without name and home folder, or as one whom file permissions bind."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tests.support import commands
from tests.support.commands import Result

#: A user id that no system gives away.
NOBODY = 54321

_NAMELESS = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    # The interpreter may lie in the home folder of root.
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip

#: Root's rights to write and to read everything, as bits, and the version of the system calls that take them.
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_VERSION = 0x20080522


def run_nameless(*arguments: object, home: str | None = None, cwd: Path | None = None) -> Result:
    """Run the command under a user id without an entry, who reads every file and owns none."""
    environment = {name: value for name, value in os.environ.items() if not _is_of_home(name)}
    environment |= {} if home is None else {"HOME": home}
    return _run(_NAMELESS, arguments, env=environment, cwd=cwd)


def run_bound(*arguments: object) -> Result:
    """Run the command without root's right to read and write everything, which a thread of this process gives up."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_run_bound, arguments).result()


@cache
def has_users() -> bool:
    """Whether this process may run others as a user without an entry, and without root's rights."""
    if shutil.which("setpriv") is None:
        return False
    return subprocess.run([*_NAMELESS, "true"], capture_output=True, check=False).returncode == 0


def _run_bound(arguments: tuple[object, ...]) -> Result:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, in two halves
    if libc.capget(header, rights):
        raise OSError(ctypes.get_errno(), "capget")
    for kind in (0, 1):
        rights[kind] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    if libc.capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")
    return commands.run_here(*arguments)


def _is_of_home(name: str) -> bool:
    return name in ("HOME", "MPT_EDGE_BUNDLE") or name.startswith(("XDG_", "HF_"))


def _run(prefix: tuple[str, ...], arguments: tuple[object, ...], **options: object) -> Result:
    command = [*prefix, sys.executable, "-m", "mpt_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload, no-any-return]


#: Makes the mount at $1 show the folder $2, and all file systems read-only, for the program that follows.
_READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$2" "$1"
mount -o remount,bind,ro "$1"
findmnt -rno TARGET | while read -r place; do
    case "$place" in /proc*|/sys*|/dev*|"$1") ;; *) mount -o remount,bind,ro "$place" ;; esac
done
shift 2
exec "$@"
"""

#: Forbids memory that is writable and executable (PR_SET_MDWE, Linux 6.3; older ones ignore it), and goes on.
_NO_NEW_CODE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.executable, sys.orig_argv[3:])"
)


def confined(bundle: Path, place: Path, program: Sequence[object], user: str) -> list[str]:
    """Return the command for a Python program of another user, with a bundle at ``place``, and all read-only.

    Args:
        bundle: the bundle's folder.
        place: an empty folder, where the program finds the bundle.
        program: arguments of the interpreter.
        user: number of the user and the group, ``1:1``.
    """
    uid, gid = user.split(":")
    setpriv = ["setpriv", f"--reuid={uid}", f"--regid={gid}", *_NAMELESS[3:], "--no-new-privs"]
    python = [sys.executable, "-c", _NO_NEW_CODE, sys.executable, *map(str, program)]
    return ["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh", str(place), str(bundle), *setpriv, *python]


@cache
def has_mounts() -> bool:
    """Whether this process may mount file systems for itself, and run others as another user."""
    if not has_users() or shutil.which("unshare") is None or shutil.which("findmnt") is None:
        return False
    command = ["unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -o remount,bind,ro /"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
