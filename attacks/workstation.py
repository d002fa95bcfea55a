"""Damage what training, import and export read of others, and check what comes of it.

python attacks/workstation.py

Prints one line a kind of file. `--count 20` takes a minute. What gets through: an error that is not one of ours, a
message of several lines, code that runs, or memory beyond the limit.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer

from attacks.common import Tally
from attacks.workstation_files import (
    CODE_MARK,
    adapter,
    data_folder,
    finished_run,
    folded_prompt,
    killed_run,
    small_trainer,
    with_code,
)
from mpt_edge.errors import MptEdgeError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.report import write_report
from mpt_edge_export.peft.adapter import read_adapter
from mpt_edge_export.peft.caikit import read_caikit
from mpt_edge_export.peft.importing import import_adapter

#: Values that take the place of others in JSON, TOML and pickles.
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**70, float("inf"), "", "x", "\ud800", "../../x", "\x1b[31m\n", [], [1], [[]], {}, {"x": 1}
)  # fmt: skip

#: Memory that an attack may take above the start, in bytes.
MAX_MEMORY = 512 << 20


@dataclass(frozen=True)
class Target:
    """Files that are damaged, and the call that reads them."""

    name: str
    make: Callable[[Path], Path]
    """Writes good files into an empty folder, and returns it."""
    files: tuple[str, ...]
    """Patterns of the files to damage."""
    read: Callable[[Path], object]


def targets(backbone: EncoderBackbone) -> list[Target]:
    """Return all kinds of files."""
    folder = backbone.folder
    return [
        Target("adapters", lambda place: adapter(folder, place, safe=False), ("*.bin", "*.json"), _imports(backbone)),
        Target("adapters in safetensors", lambda place: adapter(folder, place), ("*.safetensors",), _imports(backbone)),
        Target("folded prompts", folded_prompt, ("*.pt", "*.yml"), read_caikit),
        Target("recipes and data", data_folder, ("*.toml", "*.jsonl", "*.csv", "*.json", "*.parquet"), _read_tasks),
        Target("runs", lambda place: finished_run(backbone, place), ("log.jsonl", "tasks/*", "prompts/*"), _report),
        Target("checkpoints", lambda place: killed_run(backbone, place), ("*.pt", "*.jsonl"), _resumes(backbone)),
        Target("backbones", lambda place: _copy(folder, place), ("*.json", "*.safetensors"), _opens),
        Target("backbones in pickles", lambda place: _copy(folder, place, pickled=True), ("*.bin",), _opens),
    ]


def _imports(backbone: EncoderBackbone) -> Callable[[Path], object]:
    return lambda place: import_adapter(read_adapter(str(place)), backbone).save(place / "out")


def _resumes(backbone: EncoderBackbone) -> Callable[[Path], object]:
    return lambda place: small_trainer(backbone, place).train(lambda _: None)


def _opens(place: Path) -> object:
    with contextlib.redirect_stderr(io.StringIO()):
        return open_backbone(str(place))


def _report(place: Path) -> None:
    from mpt_edge.formats.vectors import VectorFolder

    write_report(place, place / "report.html")
    VectorFolder(place).find_prompt("shared")


def _read_tasks(place: Path) -> None:
    for path in sorted(place.glob("*.toml")):
        load_task(load_recipe(path), place, test=True)


def _copy(folder: Path, place: Path, *, pickled: bool = False) -> Path:
    import torch
    from safetensors.torch import load_file

    shutil.copytree(folder, place, dirs_exist_ok=True)
    if pickled:
        torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()
    return place


def damages(path: Path, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield ways to damage a file, without end."""
    data = path.read_bytes()
    once: list[tuple[str, Callable[[], object]]] = [
        ("empty", lambda: path.write_bytes(b"")),
        ("not UTF-8", lambda: path.write_bytes(b"\xff\xfe\x80" + data)),
        ("a folder", lambda: _replace(path, path.mkdir)),
        ("missing", path.unlink),
        ("a link to itself", lambda: _replace(path, lambda: path.symlink_to(path.name))),
        ("noise", lambda: path.write_bytes(rng.bytes(len(data) % 4096))),
        ("nesting", lambda: path.write_bytes(b"[" * 100_000)),
        ("a long number", lambda: path.write_bytes(b'{"step": ' + b"9" * 5000 + b"}\n")),
    ]
    structured = list(_structured(path))
    while True:
        if structured:
            yield "values changed", structured[int(rng.integers(len(structured)))]
        yield "bytes changed", lambda: path.write_bytes(_flipped(data, rng))
        if once:
            yield once.pop(int(rng.integers(len(once))))
        yield "cut", lambda: path.write_bytes(data[: int(rng.integers(len(data)))])


def _replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        result[int(rng.integers(len(result)))] ^= int(rng.integers(1, 256))
    return bytes(result)


def _structured(path: Path) -> Iterator[Callable[[], object]]:
    """Yield changes of each value in JSON, JSON lines or a pickle."""
    if path.suffix == ".json":
        value = json.loads(path.read_text("utf-8"))
        yield from (lambda new=new: path.write_text(json.dumps(new), "utf-8") for new in _variants(value))
    elif path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        for new in _variants(json.loads(lines[0])):
            text = "\n".join([json.dumps(new), *lines[1:]]) + "\n"
            yield partial(path.write_text, text, "utf-8")
    elif path.suffix in (".pt", ".bin"):
        import torch

        value = torch.load(path, weights_only=True)
        forged = torch.ones(1).as_strided((40_000, 40_000), (0, 0))
        for wrong in (
            *WRONG,
            torch.ones(3),
            torch.full((2, 2), np.nan),
            torch.arange(3),
            forged,
            with_code(path.parent),
        ):
            yield from (lambda new=new: torch.save(new, path) for new in _variants(value, (wrong,)))


def _variants(value: Any, wrong: tuple[Any, ...] = WRONG, depth: int = 0) -> Iterator[Any]:
    """Yield copies of a value with one part, at any depth up to three, missing or replaced."""
    yield from wrong
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys[:12]:
        rest = copy.copy(value)
        del rest[key]
        yield rest
        if depth < 3:
            for new in _variants(value[key], wrong, depth + 1):
                changed = copy.copy(value)
                changed[key] = new
                yield changed


def check(target: Target, count: int, place: Path, seed: int = 0) -> Tally:
    """Damage each file of a target, and read it; return the counts."""
    tally, rng = Tally(target.name), np.random.default_rng(seed)
    (place / "good").mkdir(parents=True)
    good = target.make(place / "good")
    target.read(shutil.copytree(good, place / "whole", symlinks=True))
    tally.add("read whole")
    names = [path.relative_to(good) for pattern in target.files for path in sorted(good.glob(pattern))]
    for name in names:
        folder = _fresh(good, place / "damaged")
        for kind, damage in islice(damages(folder / name, rng), count):
            damage()
            tally.add(*_outcome(target, folder, f"{kind} {name}"))
            _fresh(good, folder)
    return tally


def _fresh(good: Path, folder: Path) -> Path:
    """Return a folder with a new copy of the good files."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(good, folder, symlinks=True))


def _outcome(target: Target, folder: Path, what: str) -> tuple[str, str | None]:
    """Read damaged files, and return the result and what is wrong with it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with patch("builtins.input", lambda *_: "y"):
            target.read(folder)
        result, trouble = "read", None
    except MptEdgeError as error:
        result, trouble = "refused", f"several lines: {str(error)!r}" if "\n" in str(error) else None
    except OSError as error:  # the command makes a sentence of those with a path
        result, trouble = "refused by the system", None if error.filename and error.strerror else repr(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the attack is about foreign errors; a panic of tokenizers is no Exception
        result, trouble = "foreign", f"{type(error).__name__}: {str(error)[:200]}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if any(folder.parent.rglob(CODE_MARK)):
        trouble = "code was run"
    elif grown > MAX_MEMORY:
        trouble = f"{grown >> 20} MiB of memory"
    return result, trouble and f"{what}: {trouble}"


def attack(model: Path, place: Path, count: int, seed: int = 0) -> Iterator[Tally]:
    """Attack all targets with ``count`` damages a file; ``model`` is the folder of a small encoder."""
    backbone = open_backbone(str(model))
    assert isinstance(backbone, EncoderBackbone)
    for number, target in enumerate(targets(backbone)):
        yield check(target, count, place / str(number), seed)


def main(
    count: Annotated[int, typer.Option(min=1, help="Damages of each file.")] = 300,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Attack all kinds of files, and exit with 1 if anything got through."""
    from attacks.tiny import build

    failed = False
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        for tally in attack(Path(folder) / "bert", Path(folder) / "work", count, seed):
            print(tally, flush=True)
            failed |= bool(tally.problems)
    sys.exit(failed)


if __name__ == "__main__":
    typer.run(main)
