"""The folder that a bundle is written to: checked, staged beside its target, and moved there at the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from mpt_edge._files import temporary_target
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import LOCK
from mpt_edge.formats.bundle_reader import TOKENIZER
from mpt_edge.formats.locks import locked
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.vectors import INSTALLED, PROMPTS, TASKS

#: Names that a bundle's folder may contain. An export drops two of them on purpose. `INSTALLED` holds installed tasks,
#: which it writes to `TASKS`, and those that they replaced, which may not fit the prompts of the new bundle. `LOCK`
#: may have been left by a process that was killed.
_PARTS = {MANIFEST, TOKENIZER, "onnx", PROMPTS, TASKS, "README.md", INSTALLED, LOCK}

#: Seconds without a change after which a staging folder counts as left over from an export that was killed.
_ABANDONED = 24 * 60 * 60


def check_output(output: Path, *, force: bool) -> None:
    """Check that a new bundle may replace a folder.

    Args:
        output: the folder, present or not.
        force: whether a bundle in it may be replaced.

    Raises:
        InputError: it holds a bundle or other files, it is a file, or it cannot be made.
    """
    parent = next(path for path in output.absolute().parents if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):  # found here, since an export takes minutes
        raise _unwritable(output, os.strerror(errno.EACCES))
    if (output / MANIFEST).exists() and not force:
        raise InputError(f"{output} already holds a bundle; pass --force to replace it.")
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file; pass a folder.")
    names = sorted(path.name for path in output.iterdir())
    # An install that was killed may have left a half-written manifest beside the lock.
    foreign = [name for name in names if name not in _PARTS and temporary_target(name) != MANIFEST]
    if foreign:
        raise InputError(f"{output} holds {foreign[0]!r}, which is no part of a bundle; pass a new or empty folder.")


@contextmanager
def replacing_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``output`` that takes its place when the block succeeds."""
    output = output.resolve()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        staging = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.new-"))
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from error
    retired = staging.with_name(staging.name.replace(".new-", ".old-"))
    try:
        yield staging
        staging.chmod(0o755)
        with _no_change(output):
            _swap(staging, output, retired)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _no_change(output: Path) -> AbstractContextManager[None]:
    """Hold the lock of a bundle's folder, if there is one, so that no task is installed while it is moved."""
    may_lock = output.is_dir() and os.access(output, os.W_OK) and os.name != "nt"  # where open files keep folders
    return locked(output / LOCK) if may_lock else nullcontext()


def _swap(staging: Path, output: Path, retired: Path) -> None:
    try:
        if output.exists():
            output.rename(retired)
        staging.rename(output)
    except BaseException:  # Ctrl-C too: the retired folder is the only copy
        if retired.exists() and not output.exists():
            retired.rename(output)
        raise


def _unwritable(output: Path, reason: str) -> InputError:
    return InputError(f"cannot make the folder {output} ({reason}); name another with --output.")


def _remove_leftovers(output: Path) -> None:
    """Remove staging folders of killed exports to the same folder; each may hold a whole model.

    An export that still runs has such a folder too, so one stays until nothing in it has changed for a
    day. Retired folders (``.old-``) always stay: one can be the only copy of a bundle.
    """
    name = re.compile(re.escape(f".{output.name}.new-") + r"[a-z0-9_]{8}")  # as `tempfile.mkdtemp` names them
    with suppress(OSError):  # another export may remove them at the same time, and unreadable folders stay
        for path in output.parent.iterdir():
            if name.fullmatch(path.name) is None or path.is_symlink() or not path.is_dir():
                continue
            changed = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - changed > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
