"""Stop changes to a bundle in every way, and check what is left.

python attacks/faults.py

Prints one line a kind of fault. `--kills 50 --opens 500 --installs 10 --stride 9` takes seconds. Filling a disk needs
root, and system calls need strace; without them these are skipped.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from attacks.common import DONE, FOREIGN, REFUSED, Child, Tally, run_child
from attacks.fault_bundle import Change, Place, State, leftovers, problem, read_state, typical_seconds
from mpt_edge.errors import UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.transaction import remove_leftovers

#: System calls that change files, by regular expression, since their names differ between processors.
_WRITES = "/^(openat|write|fsync|flock|rename.*|mkdir.*|unlink.*)$"

#: User who owns nothing, for a root that file modes do not stop.
_NOBODY = 65534

_RANDOM = np.random.default_rng(0)

#: Number of opens of which one reads every file.
_VERIFIED_OPENS = 10

#: Seconds between two installs while a reader opens; without a break, two writers keep two processors busy.
_BREAK = 0.005

#: Number of installs of a task after which it is removed, while a reader opens.
_INSTALLS_PER_REMOVE = 200

#: Largest number of system calls that a change may have.
_MAX_CALLS = 1000


def main(
    kills: Annotated[int, typer.Option(help="Kills at random moments.")] = 2000,
    opens: Annotated[int, typer.Option(help="Opens of a reader during installs.")] = 20_000,
    installs: Annotated[int, typer.Option(help="Installs of each of two processes.")] = 100,
    stride: Annotated[int, typer.Option(help="Stop at each such system call, page or size.")] = 1,
) -> None:
    """Run all kinds of faults, and exit with 1 if any left a bundle broken."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)  # another user changes bundles in it too
    place = Place(folder / "place")
    kinds: list[Callable[[], Tally]] = [
        partial(killed_at_calls, place, stride),
        partial(killed_at_random, place, kills),
        partial(failed_calls, place, stride),
        partial(full_disk, place, stride),
        partial(limited_files, place, stride),
        partial(read_only, place),
        partial(two_installers, place, installs),
        partial(reader, place, opens),
    ]
    broken = 0
    try:
        for kind in kinds:
            started = time.perf_counter()
            tally = kind()
            broken += tally.counts["broken"]
            print(f"{tally} ({time.perf_counter() - started:.0f} s)", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if broken else 0)


def _trials(place: Place) -> Iterator[tuple[str, Change, list[State]]]:
    for name, change in place.changes.items():
        yield name, change, place.states(change)


def _settle(tally: Tally, place: Place, name: str, folder: Path, states: list[State], code: int, message: str) -> None:
    """Count what is left of a change that was stopped or refused, or that succeeded."""
    if code == FOREIGN:
        tally.add(name, f"foreign error {message}")
        return
    try:
        result = {DONE: "done", REFUSED: "refused"}.get(code, "killed")
        is_old = read_state(folder) == states[0]
    except Exception as error:  # whatever a broken bundle raises
        tally.add(name, f"{type(error).__name__}: {error}")
        return
    allowed = {DONE: states[1:], REFUSED: states[:1]}.get(code, states)
    trouble = problem(folder, allowed, place.file("epsilon", 1))
    tally.add(f"{result}, {'old' if is_old else 'new'}", trouble and f"{name}, {result} ({message}): {trouble}")


def killed_at_calls(place: Place, stride: int) -> Tally:
    """Kill changes at their system calls."""
    tally = Tally("killed at system calls")
    _at_each_call(tally, place, stride, "all:signal=SIGKILL", lambda code, _: code < 0)
    return tally


def killed_at_random(place: Place, kills: int) -> Tally:
    """Kill changes at random moments."""
    tally = Tally("killed at random")
    trials = [(*trial, typical_seconds(place, trial[1])) for trial in _trials(place)]
    for number in range(kills):
        name, change, states, seconds = trials[number % len(trials)]
        folder = place.copy()
        child = Child(partial(_apply, change, folder))
        child.begin()
        time.sleep(_RANDOM.uniform(0, 1.5 * seconds))
        child.kill()
        code, message = child.wait()
        _settle(tally, place, name, folder, states, code, message)
    return tally


def failed_calls(place: Place, stride: int) -> Tally:
    """Let each system call that changes files fail, as on a full disk."""
    tally = Tally("failed system calls")
    _at_each_call(tally, place, stride, f"{_WRITES}:error=ENOSPC", lambda _, log: "INJECTED" in log)
    return tally


def _at_each_call(tally: Tally, place: Place, stride: int, fault: str, was_hit: Callable[[int, str], bool]) -> None:
    """Inject a fault at one call after the other, until a change has no more of them.

    Args:
        tally: the counts, which are added to.
        place: the bundle and its changes.
        stride: distance of the calls that are hit; the first is drawn by lot.
        fault: calls and fault, as strace's option ``inject`` has them.
        was_hit: tells from exit code and log of a change whether it met the fault.
    """
    for name, change, states in _trials(place):
        for number in range(1 + int(_RANDOM.integers(stride)), _MAX_CALLS, stride):
            folder = place.copy()
            traced = _traced(partial(_apply, change, folder), f"inject={fault}:when={number}")
            if traced is None:
                tally.name += " (skipped: strace is not usable)"
                return
            code, message, log = traced
            _settle(tally, place, name, folder, states, code, message)
            if not was_hit(code, log):
                break


def full_disk(place: Place, stride: int) -> Tally:
    """Change a bundle on a disk with a few free pages."""
    tally = Tally("full disk")
    with _disk(place.folder / "disk") as disk:
        if disk is None:
            tally.name += " (skipped: it needs root)"
            return tally
        page = os.sysconf("SC_PAGE_SIZE")
        for name, change, states in _trials(place):
            for pages in range(0, 24, stride):
                folder, filler = place.copy(disk / "bundle"), disk / "filler"
                remove_leftovers(folder, Bundle.open(folder).manifest)  # which would make room
                state = os.statvfs(disk)
                filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - pages * page)))
                code, message = run_child(partial(_apply, change, folder))
                filler.unlink()
                _settle(tally, place, name, folder, states, code, message)
                shutil.rmtree(folder)
    return tally


def limited_files(place: Place, stride: int) -> Tally:
    """Change a bundle under a limit on the size of files."""
    tally = Tally("file size limit")
    for name, change, states in _trials(place):
        for limit in range(0, 6000, 100 * stride):
            folder = place.copy()
            code, message = run_child(partial(_apply, change, folder), file_size=limit)
            _settle(tally, place, name, folder, states, code, message)
    return tally


def read_only(place: Place) -> Tally:
    """Change a bundle of which one part cannot be written."""
    tally = Tally("read-only")
    user = _NOBODY if os.getuid() == 0 else None
    for name, change, states in _trials(place):
        for level in (".", "installed", "tasks", "bundle.json", ".lock", "**/*"):
            folder = place.copy()
            if user is not None:
                for path in (folder, *folder.rglob("*")):
                    os.chown(path, user, user)
            modes = {path: path.stat().st_mode for path in folder.glob(level)} if level != "." else {folder: 0o755}
            for path in modes:
                path.chmod(0o555 if path.is_dir() else 0o444)
            code, message = run_child(partial(_apply, change, folder), user=user)
            for path, mode in modes.items():
                with suppress(FileNotFoundError):
                    path.chmod(mode)
            _settle(tally, place, f"{name}, {level}", folder, states, code, message)
    return tally


def two_installers(place: Place, installs: int) -> Tally:
    """Let two processes install at the same time."""
    tally, folder = Tally("two installers"), place.copy()
    files = [[place.file(name, 1 + number) for number in range(installs)] for name in ("one", "two")]

    def install(each: list[Path]) -> None:
        for file in each:
            Bundle.open(folder).install_untested(file)

    children = [Child(partial(install, each)) for each in files]
    for child in children:
        child.begin()
    for child in children:
        code, message = child.wait()
        tally.add("done", None if code == DONE else message)
    versions = [Bundle.open(folder).task(name).version for name in ("one", "two")]
    tally.add(f"with {2 * installs} installs", None if versions == [installs, installs] else f"versions {versions}")
    for path in leftovers(folder):
        tally.add("at the end", f"{path} is left over")
    return tally


def reader(place: Place, opens: int) -> Tally:
    """Open and read a bundle while two processes change it."""
    tally, folder = Tally("reader"), place.copy()

    def change(name: str) -> None:
        for version in itertools.count(3):
            Bundle.open(folder).install_untested(place.file(name, version))
            time.sleep(_BREAK)
            if version % _INSTALLS_PER_REMOVE == 0:
                Bundle.open(folder).rollback(name)
                Bundle.open(folder).remove(name)

    children = [Child(partial(change, name)) for name in ("alpha", "gamma")]
    for child in children:
        child.begin()
    first = Bundle.open(folder).manifest.changes
    for number in range(opens):
        try:
            bundle = Bundle.open(folder)
            with suppress(UnknownTaskError):  # it was removed since
                bundle.task(bundle.task_names[number % len(bundle.task_names)])
            if number % _VERIFIED_OPENS == 0:
                bundle.verify_files()
            tally.add("opened")
        except Exception as error:  # each is a failure of the trial
            tally.add("opened", f"{type(error).__name__}: {error}")
    is_changed = Bundle.open(folder).manifest.changes != first
    for child in children:
        child.kill()
        code, message = child.wait()
        tally.add("writer", None if code < 0 and is_changed else f"it ended or did nothing: {message}")
    return tally


def _apply(change: Change, folder: Path) -> None:
    change(Bundle.open(folder))


def _traced(change: Callable[[], object], expression: str) -> tuple[int, str, str] | None:
    """Make a change under strace; return code, message and strace's log, or None where it cannot be used."""
    if shutil.which("strace") is None:
        return None
    child = Child(change)
    with tempfile.NamedTemporaryFile() as log:
        command = ["strace", "-o", log.name, "-e", expression, "-p", str(child.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        is_attached = re.search("attached", tracer.stderr.readline()) is not None
        child.begin()
        code, message = child.wait()
        tracer.communicate()
        return (code, message, Path(log.name).read_text("utf-8", "replace")) if is_attached else None


@contextmanager
def _disk(folder: Path) -> Iterator[Path | None]:
    """Yield a small disk in memory; None where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


if __name__ == "__main__":
    typer.run(main)
