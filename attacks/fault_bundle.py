"""A bundle without graphs to change, and the check of one whose change was stopped."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpt_edge._files import sha256
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import MANIFEST, Family, FileEntry, Manifest, Pooling
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder, releases_of

#: Hashes of the tasks by name in the manifest.
State = dict[str, str]

Change = Callable[[Bundle], object]

_TOKENIZER = b"{}"
_PROMPT = SharedPrompt("mpt", np.ones((3, 4), np.float16), Placement(), "b" * 64)


def make_task(name: str, version: int) -> TaskFile:
    """Return a task whose vectors depend on its version."""
    return TaskFile(
        name=name,
        head_type="similarity",
        labels=("no", "yes"),
        label_texts=(("no",), ("yes",)),
        u=np.full(3, 1 + version / 1024, np.float16),
        v=np.ones(4, np.float16),
        prompt="mpt",
        prompt_sha256=_PROMPT.fingerprint,
        backbone="b" * 64,
        tokenizer=hashlib.sha256(_TOKENIZER).hexdigest(),
        version=version,
    )


@dataclass
class Place:
    """A folder with a prepared bundle, task files to install, and copies of the bundle to change."""

    folder: Path
    base: Path = field(init=False)
    """The prepared bundle: `alpha` was replaced, `delta` removed, and a killed change left files."""

    def __post_init__(self) -> None:
        """Prepare the bundle."""
        self.base = self.folder / "base"
        self.base.mkdir(parents=True)
        vectors = VectorFolder(self.base)
        vectors.save(_PROMPT)
        for name in ("alpha", "beta", "delta"):
            vectors.save(make_task(name, 1))
        (self.base / "tokenizer.json").write_bytes(_TOKENIZER)
        (self.base / MANIFEST).write_text(make_manifest(self.base).to_json(), encoding="utf-8")
        bundle = Bundle.open(self.base)
        bundle.install_untested(self.file("alpha", 2))
        bundle.remove("delta")
        (self.base / "installed" / f"gamma.{'0' * 32}.safetensors").write_bytes(b"left over")
        for name in (f".{MANIFEST}.0123abcd", "installed/.gamma.safetensors.0123abcd", ".lock"):
            (self.base / name).write_bytes(b"")

    def file(self, name: str, version: int) -> Path:
        """Return the path of a task file outside the bundle."""
        path = self.folder / "files" / f"{name}-{version}.safetensors"
        if not path.exists():
            make_task(name, version).save(path)
        return path

    def copy(self, folder: Path | None = None) -> Path:
        """Return a fresh copy of the prepared bundle."""
        target = folder or self.folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(self.base, target))

    @property
    def changes(self) -> dict[str, Change]:
        """Changes by name."""
        together = [self.file("alpha", 3), self.file("gamma", 1), self.file("beta", 2)]
        return {
            "install": lambda bundle: bundle.install_untested(together[0]),
            "install of three": lambda bundle: bundle.install_untested(*together),
            "rollback": lambda bundle: bundle.rollback("alpha"),
            "remove": lambda bundle: bundle.remove("alpha"),
        }

    def states(self, change: Change) -> list[State]:
        """Return the states before and after a change."""
        folder = self.copy(self.folder / "dry")
        old = read_state(folder)
        change(Bundle.open(folder))
        return [old, read_state(folder)]


def make_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle whose other files are written."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256(path), size=path.stat().st_size)
        for path in folder.rglob("*.*")
    }
    return Manifest(
        name="faults", family=Family.ENCODER, placement=Placement(), prompt_length=3, hidden_size=4, layers=1, heads=1,
        head_size=4, pooling=Pooling.MEAN, token_types=False, max_length=64, pad_id=0, made_by="attacks/faults.py",
        backbone={"id": "none", "fingerprint": "b" * 64}, tokenizer=hashlib.sha256(_TOKENIZER).hexdigest(),
        prompts={"mpt": {"fingerprint": _PROMPT.fingerprint, "layout": "prefix", "length": 3}}, parity={}, files=files,
        releases=releases_of(VectorFolder(folder).tasks().values()),
    )  # fmt: skip


def read_state(folder: Path) -> State:
    """Return the hashes of a bundle's tasks, after reading and checking each file."""
    bundle = Bundle.open(folder)
    bundle.verify_files()
    for name in bundle.task_names:
        bundle.task(name)
    return {name: entry["sha256"] for name, entry in bundle.manifest.files.items() if name.endswith(".safetensors")}


def problem(folder: Path, allowed: Sequence[State], later: Path) -> str | None:
    """Return the problem of a bundle whose change was stopped; None if it is as it must be.

    Args:
        folder: the bundle; it is changed.
        allowed: states that it may be in.
        later: a task file that can be installed.
    """
    try:
        if read_state(folder) not in allowed:
            return "it is in a state between the old and the new one"
        (task,) = Bundle.open(folder).install_untested(later)
        if task.name not in Bundle.open(folder).task_names:
            return "the next install is lost"
        read_state(folder)
    except MptEdgeError as error:
        return str(error)
    return next((f"{path} is left over" for path in leftovers(folder)), None)


def leftovers(folder: Path) -> Iterator[str]:
    """Yield the files of a bundle that its manifest does not name."""
    manifest = Bundle.open(folder).manifest
    named = {MANIFEST, *manifest.stored_paths, *manifest.retired}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    yield from (path for path in found if path not in named)


def typical_seconds(place: Place, change: Change, repeats: int = 5) -> float:
    """Return the longest time of a change among some."""
    seconds = []
    for _ in range(repeats):
        bundle = Bundle.open(place.copy())
        started = time.perf_counter()
        change(bundle)
        seconds.append(time.perf_counter() - started)
    return max(seconds)
