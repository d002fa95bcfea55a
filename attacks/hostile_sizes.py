"""Texts, tasks, manifests, tables and files of hostile or unlucky sizes: refused or answered with little memory.

python attacks/hostile_sizes.py

Each trial runs in a process of its own, which loads the model first. Then it has one second of computing, and 256 MB
above what it had. It needs Linux, and PyTorch to build a small model; `--bundle` takes another.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mpt_edge
from attacks.common import Child, Tally
from attacks.tiny import build_in_child
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.records import Format, RecordReader
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.model import Model
from tests.support.bundles import sealed

#: Bytes above the loaded model, and seconds of computing, that a trial may take.
MAX_BYTES, MAX_SECONDS = 256 << 20, 1.0

#: Seconds after which a trial that waits is ended.
MAX_WAIT = 60

Attack = Callable[[Model, Path], object]


def texts(model: Model, _: Path) -> Iterator[tuple[str, Attack]]:
    """Yield requests of long texts, pairs and names."""
    first = model.tasks[0]
    endless = {"exclamation marks": "!", "Chinese": "\u4e2d", "letters": "a", "words": "film ", "spaces": "\u3000a"}
    for name, text in endless.items():
        yield f"10 MB of {name}", lambda m, _, t=text: m.task(first)(t * (10_000_000 // len(t)))  # type: ignore[misc]
        yield f"pair of 10 MB of {name}", lambda m, _, t=text: m.embed(((t * (10_000_000 // len(t))),) * 2)  # type: ignore[misc]
    yield "pair of 2 x 2,048 characters", lambda m, _: m.embed(("!" * 2048,) * 2)
    yield "eight pairs of Chinese", lambda m, _: m.embed([("\u4e2d\u6587" * 1000,) * 2] * 8)
    yield "a name of 10 MB", lambda m, _: m.task("x" * 10_000_000)
    yield "60 names of 10 MB", lambda m, _: m.run(["a"] * 60, ["x" * 10_000_000] * 60)


def tasks(model: Model, folder: Path) -> Iterator[tuple[str, Attack]]:
    """Yield task files that ask for much."""
    bundle = Bundle.open(model.bundle.folder)
    file = bundle.task(bundle.task_names[0])
    shared = bundle.prompt(file.prompt)
    many = tuple(str(i) for i in range(10_000))
    rows = np.ones((4000, *shared.values.shape[1:]), np.float16)
    changes: dict[str, dict[str, Any]] = {
        "a prompt of 4,000 virtual tokens": {
            "own_prompt": replace(shared, values=rows),
            "u": np.ones(4000, np.float16),
        },
        "10,000 label texts": {"labels": many, "label_texts": tuple((name,) for name in many)},
        "10,000 texts of a label": {"label_texts": (many, *file.label_texts[1:])},
        "a template of 100,000 texts": {"template": "{text} " * 100_000},
        "a template of 10 MB": {"template": "{text}" + "a" * 10_000_000},
        "a label of 10 MB": {"labels": ("a" * 10_000_000, *file.labels[1:])},
        "a max_length of 2^31": {"max_length": 1 << 31},
    }
    for name, change in changes.items():
        path = folder / f"{len(name)}.safetensors"
        replace(file, inputs=Inputs.TEXT, **change).save(path)
        yield name, lambda m, _, p=path: m.add_task(p)("a film " * 1000)  # type: ignore[misc]


def manifests(model: Model, folder: Path) -> Iterator[tuple[str, Attack]]:
    """Yield manifests of other sizes than their graph, and malformed ones."""
    source = model.bundle.folder / "bundle.json"
    entries = json.loads(source.read_text("utf-8"))
    largest = (1 << 31) - 1
    sizes = ("layers", "heads", "head_size", "hidden_size", "max_length", "prompt_length", "pad_id")
    forged = {f"{name} of 2^31": sealed(entries | {name: largest}).decode() for name in sizes}
    forged |= {
        "deep nesting": '{"schema":' + "[" * 1_000_000,
        "a number of a million digits": '{"schema":' + "1" * 1_000_000 + "}",
        "half a character": json.dumps(entries | {"name": "\ud800"}),
        "a million empty lists": '{"schema":1,"a":[' + "[]," * 1_000_000 + "[]]}",
    }
    for name, text in forged.items():
        target = folder / f"manifest {name}"
        target.mkdir()
        for path in model.bundle.folder.iterdir():
            (target / path.name).symlink_to(path)
        (target / "bundle.json").unlink()
        (target / "bundle.json").write_text(text, "utf-8")
        yield name, lambda _, __, t=target: mpt_edge.load(t, threads=1).embed("a film")  # type: ignore[misc]


def tables(_: Model, folder: Path) -> Iterator[tuple[str, Attack]]:
    """Yield tables of many columns and long cells."""
    wide, long = folder / "wide.csv", folder / "long.csv"
    with wide.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[f"c{i}" for i in range(60_000)], ["a"] * 60_000])
    long.write_text('text\n"' + "a" * 40_000_000, "utf-8")
    for name, path in (("60,000 columns", wide), ("a cell of 40 MB", long)):
        yield name, lambda _, __, p=path: _read_all(p)  # type: ignore[misc]


def _read_all(path: Path) -> None:
    with path.open("rb") as stream:
        for _ in RecordReader(stream, str(path), Format.CSV):
            pass


def files(model: Model, folder: Path) -> Iterator[tuple[str, Attack]]:
    """Yield files that are none, or without an end."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    (folder / "large").touch()
    os.truncate(folder / "large", 1 << 40)
    paths = [Path("/dev/zero"), folder / "pipe", folder / "socket", folder, folder / "large"]
    readers: dict[str, Callable[[Path], object]] = {
        "task": TaskFile.load,
        "prompt": SharedPrompt.load,
        "install": model.install,
        "added task": model.add_task,
    }
    for path in paths:
        (folder / f"link to {path.name}").symlink_to(path)
        for name, reader in readers.items():
            for each in (path, folder / f"link to {path.name}"):
                yield f"{name} from {each}", lambda _, __, r=reader, p=each: _refused(r, p)  # type: ignore[misc]


def _refused(reader: Callable[[Path], object], path: Path) -> None:
    reader(path)
    raise AssertionError(f"{path} was read")


KINDS = {"texts": texts, "tasks": tasks, "manifests": manifests, "tables": tables, "files": files}


def trial(bundle: Path, attack: Attack, folder: Path) -> tuple[str, str | None]:
    """Return a trial's result, and what is wrong with it."""

    def attempt() -> None:
        signal.alarm(MAX_WAIT)
        model = mpt_edge.load(bundle, threads=1)
        model.task(model.tasks[0])
        before, began = _peak(), time.process_time()
        try:
            attack(model, folder)
        finally:
            more, seconds = _peak() - before, time.process_time() - began
            if more > MAX_BYTES:
                raise RuntimeError(f"it took {more >> 20} MB")
            if seconds > MAX_SECONDS:
                raise RuntimeError(f"it took {seconds:.1f} s")

    child = Child(attempt)
    child.begin()
    code, message = child.wait()
    if code < 0:
        return "ended", f"signal {-code}"
    if code > 1:
        return "failed", message
    return ("refused" if code else "answered"), None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attack(bundle: Path, kind: str, every: int = 1) -> Tally:
    """Try each attack of a kind, or one of ``every``."""
    tally = Tally(kind)
    with tempfile.TemporaryDirectory() as folder:
        trials = list(KINDS[kind](mpt_edge.load(bundle, threads=1), Path(folder)))
        for name, each in trials[::every]:
            result, trouble = trial(bundle, each, Path(folder))
            tally.add(result, trouble and f"{name}: {trouble}")
    return tally


def main(
    bundle: Annotated[Path | None, typer.Option(help="Bundle of an encoder; a small one is built without it.")] = None,
    kinds: Annotated[str, typer.Option(help="Kinds of attacks, with commas.")] = ",".join(KINDS),
    every: Annotated[int, typer.Option(min=1, help="Try one of so many.")] = 1,
) -> None:
    """Try all sizes, and exit with 1 if one got through."""
    with tempfile.TemporaryDirectory() as folder:
        used = bundle or build_in_child(Path(folder))
        tallies = [attack(used, kind, every) for kind in kinds.split(",")]
    for tally in tallies:
        print(tally)
    if any(tally.problems for tally in tallies):
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except MptEdgeError as error:
        sys.exit(f"mpt-edge: {error}")
