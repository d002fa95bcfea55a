"""Forge task files and manifests, and try to get them into a bundle or past its checks.

python attacks/forged_tasks.py

Hashes are made anew wherever an attacker can. Prints one line a kind of forgery. Nothing but a signature or a pinned
digest stops what the last line counts: whoever makes a file can record whatever the forged task answers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the attacks are a package of the clone

import numpy as np
import typer

import mpt_edge
from attacks.common import Tally
from attacks.tiny import build_in_child
from mpt_edge._arrays import Floats
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats import tensors
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL, hash_bytes
from mpt_edge.formats.manifest import MANIFEST, Pooling, Precision, read_manifest
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import prompt_key, task_key
from mpt_edge.inference.model import Model
from mpt_edge.inference.self_test import TOLERANCES, record_example

#: Task that is forged, and its versions: installed, and genuine but newer.
_NAME, _INSTALLED, _NEWER = "sentiment", 5, 6

#: Versions that are none.
_VERSIONS = ("-7", "0", "+6", "06", "6.0", "6e0", " 6", "\u0666", str(2**31), "9" * 300)

_MAX_HALF = 65504

_TOLERANCE = TOLERANCES[Precision.FLOAT32]

Attempt = Callable[[Path], object]
"""Something that must be refused, on a fresh copy of the bundle."""


def main(
    noise: Annotated[int, typer.Option(help="Tasks of noise.")] = 200,
    bits: Annotated[int, typer.Option(help="Flipped bits.")] = 2000,
) -> None:
    """Try all forgeries, and exit with 1 if any got through."""
    folder = Path(tempfile.mkdtemp(prefix="forged-"))
    broken = 0
    try:
        for tally in forge(build_in_child(folder), noise=noise, bits=bits):
            broken += tally.counts["broken"]
            print(tally, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if broken else 0)


def forge(bundle: Path, *, noise: int, bits: int) -> Iterator[Tally]:
    """Yield counts for each kind of forgery of a bundle that has the task; the bundle is not changed."""
    place = Path(tempfile.mkdtemp(prefix="forged-"))
    try:
        forger = Forger(bundle, place)
        yield forger.tasks("damaged files", forger.damaged(bits))
        yield forger.tasks("forged vectors and labels, genuine example", forger.other_answers(noise))
        yield forger.tasks("examples that cannot be", forger.examples())
        yield forger.tasks("values that overflow, example made anew", forger.overflows())
        yield forger.tasks("versions", forger.versions())
        yield forger.downgrades()
        yield forger.manifests()
        yield forger.only_signatures(noise)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass
class Forger:
    """A bundle with an installed task, and forgeries of it."""

    bundle: Path
    """The original bundle."""
    place: Path
    """A folder for copies and files."""

    def __post_init__(self) -> None:
        """Install the genuine task in a copy."""
        self.folder, self.file = self.place / "bundle", self.place / "forged.safetensors"
        shutil.copytree(self.bundle, self.folder)
        self.model: Model = mpt_edge.load(self.folder, threads=1)
        plain = self.model.task(_NAME).file
        self.genuine = replace(plain, reference_example=record_example(self.model.task(_NAME)), version=_NEWER)
        self.model.install(self.write(replace(self.genuine, version=_INSTALLED)))
        self.digest = self.model.bundle.digest
        self._random = np.random.default_rng(0)

    def write(self, task: TaskFile) -> Path:
        """Write a task, with a hash that fits."""
        task.save(self.file)
        return self.file

    def edited(self, **metadata: str | None) -> bytes:
        """Return the genuine file with other metadata, and a hash that fits; None takes an entry out."""
        arrays, found = tensors.parse(self.write(self.genuine).read_bytes(), "genuine")
        tensors.write(self.file, arrays, found | metadata)
        return self.file.read_bytes()

    def tasks(self, name: str, forgeries: Iterator[tuple[str, bytes | TaskFile]]) -> Tally:
        """Try to install forgeries; each must be refused, and the bundle must stay as it was."""
        tally, before = Tally(name), (self.folder / MANIFEST).read_bytes()
        for what, forged in forgeries:
            if isinstance(forged, TaskFile):
                self.write(forged)
            else:
                self.file.write_bytes(forged)
            _expect_refusal(tally, what, lambda: self.model.install(self.file))
            if (self.folder / MANIFEST).read_bytes() != before:
                tally.add(what, "the bundle was changed")
                (self.folder / MANIFEST).write_bytes(before)
        return tally

    def damaged(self, bits: int) -> Iterator[tuple[str, bytes]]:
        """Yield files with a flipped bit, without a hash, cut short, and with a key twice."""
        data = self.write(self.genuine).read_bytes()
        for bit in self._random.choice(8 * len(data), min(bits, 8 * len(data)), replace=False):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            yield "flipped bit", bytes(changed)
        text, rest = _split(data)
        header = json.loads(text)
        del header["__metadata__"]["sha256"]
        yield "no hash", _joined(json.dumps(header).encode(), rest)
        yield "cut short", data[:-2]
        yield "key twice", _joined(text.replace(b'"__metadata__":{', b'"__metadata__":{"task":"other",', 1), rest)
        example = json.dumps(self.genuine.reference_example)
        yield "key twice", self.edited(reference_example=example[:-1] + ', "label": "other"}')

    def other_answers(self, noise: int) -> Iterator[tuple[str, TaskFile]]:
        """Yield tasks that answer otherwise than the genuine example says.

        Some noise answers that one text as the genuine task does: 3 in 20 on a tiny random model. It passes, and is
        not yielded.
        """
        for _ in range(noise):
            task = self._noisy()
            if self._answers_otherwise(task):
                yield "noise", task
        yield "swapped labels", self._swapped()
        yield "largest values", self._largest()

    def examples(self) -> Iterator[tuple[str, TaskFile]]:
        """Yield tasks whose example says what they do not answer, or nothing that can be answered."""
        right = dict(self.genuine.reference_example)
        yield "no example", replace(self.genuine, reference_example={})
        other = next(label for label in self.genuine.labels if label != right["label"])
        wrong: list[dict[str, Any]] = [{"label": other}, {"label": "none"}, {"score": right["score"] - 0.03}]
        scores: tuple[Any, ...] = (float("nan"), float("inf"), "high", None, [1], 10**400)
        texts: tuple[Any, ...] = ("", 1, None, ["a", "b"], [], {})
        wrong += [{"score": score} for score in scores] + [{"text": text} for text in texts]
        for change in wrong:
            yield "other example", replace(self.genuine, reference_example=right | change)
        for key in right:
            rest = {name: value for name, value in right.items() if name != key}
            yield "incomplete example", replace(self.genuine, reference_example=rest)

    def overflows(self) -> Iterator[tuple[str, TaskFile]]:
        """Yield tasks whose vectors, prompt, or keys and values are not finite."""
        task = self.genuine
        for bad in (np.nan, np.inf):
            yield "not finite", replace(task, u=np.full_like(task.u, bad))
        shared = self.model.bundle.prompt(task.prompt)
        for large in (3e38, 1e35):
            own = replace(shared, name=task.name, values=np.full(shared.values.shape, large, np.float32))
            changes: dict[str, Any] = {"own_prompt": own, "prompt": None, "prompt_sha256": None}
            yield "prompt that overflows", replace(task, **changes, v=np.full_like(task.v, _MAX_HALF))

    def versions(self) -> Iterator[tuple[str, bytes | TaskFile]]:
        """Yield tasks of versions that are none, or that do not rise."""
        for version in _VERSIONS:
            yield "no version", self.edited(version=version)
        yield "older", replace(self.genuine, version=_INSTALLED - 1)
        yield "same version, other content", replace(self.genuine, version=_INSTALLED, license="other")

    def downgrades(self) -> Tally:
        """Install an older version, or other content of the same, over what was lost in some way."""
        tally = Tally("downgrades over a lost version")
        losses: dict[str, Attempt] = {
            "removed": lambda folder: Bundle.open(folder).remove(_NAME),
            "damaged": lambda folder: _stored(folder, task_key(_NAME)).write_bytes(b"damaged"),
            "missing": lambda folder: _stored(folder, task_key(_NAME)).unlink(),
            "rolled back": lambda folder: Bundle.open(folder).rollback(_NAME),
        }
        older = (replace(self.genuine, version=2), replace(self.genuine, version=_INSTALLED, license="other"))
        for what, lose in losses.items():
            for task in older:
                copy = self._copy()
                lose(copy)
                model = mpt_edge.load(copy, threads=1)
                _expect_refusal(tally, what, partial(model.install, self.write(task)))
        return tally

    def manifests(self) -> Tally:
        """Change what a manifest says, with its hash or without, and what it leads to."""
        tally = Tally("manifests")
        for what, change in self._manifest_changes().items():
            copy = self._copy()
            change(copy)
            _expect_refusal(tally, what, partial(_select, copy))
        return tally

    def _manifest_changes(self) -> dict[str, Attempt]:
        """Return changes after which the bundle must not be used, even without a pin."""

        def pooling(folder: Path) -> None:
            path = folder / MANIFEST
            path.write_bytes(path.read_bytes().replace(b'"pooling": "mean"', b'"pooling": "max"'))

        def twice(folder: Path) -> None:
            path = folder / MANIFEST
            path.write_bytes(path.read_bytes().replace(b'"pooling"', b'"pooling": "max",\n  "pooling"'))

        def weights(folder: Path) -> None:
            name = b"model.onnx_data"
            graph = (folder / MODEL).read_bytes().replace(name, b"other.onnx_data")
            shutil.copy(folder / "onnx/model.onnx_data", folder / "onnx/other.onnx_data")
            (folder / MODEL).write_bytes(graph)
            _reseal(folder, files={MODEL: {"sha256": hash_bytes(graph), "size": len(graph)}})

        def prompt(folder: Path) -> None:
            name = self.genuine.prompt or ""
            found = self.model.bundle.prompt(name)
            replace(found, values=found.values[::-1].copy()).save(folder / prompt_key(name))
            data = (folder / prompt_key(name)).read_bytes()
            _reseal(folder, files={prompt_key(name): {"sha256": hash_bytes(data), "size": len(data)}})

        return {
            "pooling changed": pooling,
            "key twice": twice,
            "tokenizer of another fingerprint": lambda folder: _reseal(folder, tokenizer="0" * 64),
            "weights that are not listed": weights,
            "prompt of another fingerprint": prompt,
        }

    def only_signatures(self, noise: int) -> Tally:
        """Count forgeries that are installed or loaded; pinned digests refuse the latter."""
        tally = Tally("stopped only by a signature (tasks) or a pinned digest (bundles)")
        forged = {"noise": [self._noisy() for _ in range(noise)], "labels": [self._swapped()]}
        forged["largest values"] = [self._largest()]
        for what, tasks in forged.items():
            for task in tasks:
                added = self.model.add_task(self.write(task))
                anew = replace(task, reference_example=record_example(added))
                try:
                    self.model.install(self.write(anew), dry_run=True)
                    tally.add(f"{what}, example made anew")
                except MptEdgeError:
                    tally.add(f"{what}, refused all the same")
        changes: dict[str, Attempt] = {
            "pooling, hash made anew": lambda folder: _reseal(folder, pooling=Pooling.MAX),
            "older manifest with its older files": lambda folder: shutil.copytree(
                self.bundle, folder, dirs_exist_ok=True
            ),
        }
        for what, change in changes.items():
            copy = self._copy()
            change(copy)
            mpt_edge.load(copy, threads=1)  # without a pin it passes, as docs/security.md says
            _expect_refusal(tally, f"{what}, refused by a pin", partial(mpt_edge.load, copy, digest=self.digest))
        return tally

    def _noisy(self) -> TaskFile:
        u, v = (self._vector(values) for values in (self.genuine.u, self.genuine.v))
        return replace(self.genuine, u=u, v=v)

    def _answers_otherwise(self, task: TaskFile) -> bool:
        example, added = task.reference_example, self.model.add_task(self.write(task))
        answer = added(example["text"])
        return bool(answer.label != example["label"] or abs(answer.score - example["score"]) > _TOLERANCE)

    def _vector(self, values: Floats) -> Any:
        return self._random.normal(0, 3, values.shape).astype(np.float16)

    def _swapped(self) -> TaskFile:
        return replace(self.genuine, labels=self.genuine.labels[::-1])

    def _largest(self) -> TaskFile:
        u, v = (np.full_like(values, _MAX_HALF) for values in (self.genuine.u, self.genuine.v))
        return replace(self.genuine, u=u, v=v)

    def _copy(self) -> Path:
        copy = self.place / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(self.folder, copy))


def _expect_refusal(tally: Tally, what: str, attempt: Callable[[], object]) -> None:
    """Count an attempt that must end in one of our sentences."""
    try:
        attempt()
    except MptEdgeError:
        tally.add(what)
    except Exception as error:  # whatever a forgery raises
        tally.add(what, f"{type(error).__name__}: {error}")
    else:
        tally.add(what, "it got through")


def _select(folder: Path) -> object:
    return mpt_edge.load(folder, threads=1).task(_NAME)


def _reseal(folder: Path, *, files: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change a manifest, and its hash with it."""
    manifest = read_manifest(folder / MANIFEST)
    changed = replace(manifest, files={**manifest.files, **(files or {})}, **changes)
    (folder / MANIFEST).write_text(changed.to_json(), "utf-8")


def _stored(folder: Path, name: str) -> Path:
    return folder / read_manifest(folder / MANIFEST).stored(name)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Return header and tensors of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    return data[8:start], data[start:]


def _joined(header: bytes, rest: bytes) -> bytes:
    padded = header + b" " * (-len(header) % 8)
    return len(padded).to_bytes(8, "little") + padded + rest


if __name__ == "__main__":
    typer.run(main)
