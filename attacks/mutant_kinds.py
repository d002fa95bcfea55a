"""Kinds of files whose mutants are parsed, and the check of a mutant that a parser accepts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

from attacks.fault_bundle import make_manifest, make_task
from attacks.mutating import Mutator, Pairs, read_json, write_json
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.manifest import MANIFEST, Manifest
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile

#: Names of tensor types in headers, as numpy has them.
_DTYPES = {"F16": "float16", "F32": "float32", "U8": "uint8"}

#: These types in the order of a file, wider ones first.
_ORDER = ("F32", "F16", "U8")

#: Files that stay in memory where the system can.
_MEMORY = Path("/dev/shm")  # noqa: S108 - names in it are random


_TASK = make_task("topic", 1)


class MeaningError(Exception):
    """A mutant was accepted, and means something else than the file that its hash was made for."""


def memory_folder(prefix: str) -> Path:
    """Return a new folder, in memory where the system has such files."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_MEMORY if _MEMORY.is_dir() else None))


def meaning(value: Any) -> Any:
    """Return a value that is equal for all files of the same content."""
    if is_dataclass(value) and not isinstance(value, type):
        compared = (each.name for each in fields(value) if each.compare)
        return type(value).__name__, tuple((name, meaning(getattr(value, name))) for name in compared)
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return tuple(sorted(((repr(key), meaning(item)) for key, item in value.items()), key=lambda item: item[0]))
    if isinstance(value, list | tuple):
        return tuple(map(meaning, value))
    return type(value).__name__, repr(value)


class Kind(ABC):
    """One kind of file: its originals, its mutants and what must hold for these."""

    name: ClassVar[str]
    per_number: ClassVar[int] = 1
    """Number of files that one number stands for."""
    max_seconds: ClassVar[float] = 1.0
    """Seconds of computing that one number may take."""

    @abstractmethod
    def make(self, random: Random) -> tuple[bytes, bool]:
        """Return a mutant, and whether its hash was made anew."""

    def begin(self) -> None:  # noqa: B027 - not all kinds need it
        """Prepare to check mutants, in the process that does."""

    def end(self) -> None:  # noqa: B027 - not all kinds need it
        """Clean up."""

    @abstractmethod
    def check(self, data: bytes, *, is_sealed: bool) -> str:
        """Parse and use a mutant.

        Args:
            data: the mutant.
            is_sealed: whether its hash was made anew, so that it may have another meaning.

        Returns:
            ``"same"`` or ``"different"``, for a mutant that is accepted.

        Raises:
            MptEdgeError: it is refused.
            MeaningError: it is accepted by mistake.
        """


class ParsedKind(Kind):
    """Files of which one function makes an object, that is written as a file again."""

    def __init__(self, originals: Sequence[bytes]) -> None:
        """Keep the originals."""
        self.originals = list(originals)
        self.meanings = {meaning(self.parse(data)) for data in self.originals}

    @abstractmethod
    def parse(self, data: bytes) -> Any:
        """Return the object."""

    @abstractmethod
    def rewrite(self, item: Any) -> bytes:
        """Return an object's file."""

    @abstractmethod
    def use(self, item: Any) -> None:
        """Do what is done to each object. Raises MptEdgeError for one that is refused later."""

    def check(self, data: bytes, *, is_sealed: bool) -> str:
        """Parse, compare, write and use a mutant; see `Kind.check`."""
        item = self.parse(data)
        found = meaning(item)
        is_same = found in self.meanings
        if not is_same and not is_sealed:
            raise MeaningError("accepted, with another meaning under the old hash")
        if not is_same and meaning(self.parse(self.rewrite(item))) != found:
            raise MeaningError("accepted, and means something else when it is written again")
        self.use(item)
        return "same" if is_same else "different"


class ContainerKind(ParsedKind):
    """Files in safetensors' format with a hash of their own."""

    def __init__(self, originals: Sequence[bytes]) -> None:
        """Keep the originals, and their headers as trees."""
        super().__init__(originals)
        self.parts = [split(data) for data in self.originals]

    def begin(self) -> None:
        """Make a folder to write to."""
        self.folder = memory_folder("mutants-")
        self.bundle = BundleReader(self.folder, make_manifest(self.folder))

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def rewrite(self, item: Any) -> bytes:
        """Save an object; see `ParsedKind.rewrite`."""
        path = self.folder / "again.safetensors"
        item.save(path)
        return path.read_bytes()

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate bytes, the header, or the tensors' bytes; see `Kind.make`."""
        mutator = Mutator(random, [tree for tree, _ in self.parts])
        if random.random() < 0.3:
            data = random.choice(self.originals)
            for _ in range(random.choice([1, 1, 1, 2, 5])):
                data = mutator.bytes(data, random.choice(self.originals))
            return data, False
        tree, buffer = random.choice(self.parts)
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            kind = random.random()
            if kind < 0.6:
                tree = _mutate_metadata(tree, mutator)
            elif kind < 0.7:
                buffer = mutator.bytes(buffer, random.choice(self.parts)[1])
            else:
                tree = mutator.tree(tree)
        sealed = seal(tree, buffer, is_tidy=random.random() < 0.8) if random.random() < 0.8 else None
        return sealed or join(tree, buffer), sealed is not None


def _mutate_metadata(tree: Any, mutator: Mutator) -> Any:
    """Return a header with another text in its metadata; the tree itself where it has none."""
    items = tree if isinstance(tree, Pairs) else Pairs()
    place = next((i for i, (name, _) in enumerate(items) if name == "__metadata__"), None)
    metadata = None if place is None else items[place][1]
    if place is None or not isinstance(metadata, Pairs) or not metadata:
        return tree
    changed = mutator.random.randrange(len(metadata))
    key, text = metadata[changed]
    text = mutator.text(text) if isinstance(text, str) else text
    metadata = Pairs([*metadata[:changed], (key, text), *metadata[changed + 1 :]])
    return Pairs([*items[:place], ("__metadata__", metadata), *items[place + 1 :]])


def split(data: bytes) -> tuple[Any, bytes]:
    """Return the header's tree and the tensors' bytes of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    return read_json(data[8:start]), data[start:]


def join(tree: Any, buffer: bytes) -> bytes:
    """Return a safetensors file."""
    header = write_json(tree)
    return len(header).to_bytes(8, "little") + header + buffer


def seal(tree: Any, buffer: bytes, *, is_tidy: bool = True) -> bytes | None:
    """Return a file with the hash of its content, as docs/bundle.md has it; None where there is none.

    Args:
        tree: the header.
        buffer: the tensors' bytes.
        is_tidy: write it as mpt-edge does, keys and tensors in order; else keep the header's text.
    """
    try:
        header = dict(json.loads(write_json(tree)))
        metadata = header.pop("__metadata__")
        metadata.pop("sha256", None)
        digest = hashlib.sha256(_compact(dict(sorted(metadata.items()))))
        parts = {name: buffer[slice(*entry["data_offsets"])] for name, entry in header.items()}
        for name, entry in sorted(header.items()):
            head = f"{_DTYPES[entry['dtype']]}{list(entry['shape'])}".encode()
            digest.update(f"{name}{hashlib.sha256(head + parts[name]).hexdigest()}".encode())
        metadata["sha256"] = digest.hexdigest()
        return _tidy(header, metadata, parts) if is_tidy else join(_with_hash(tree, metadata["sha256"]), buffer)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _with_hash(tree: Any, digest: str) -> Pairs:
    metadata = Pairs((key, value) for key, value in dict(tree)["__metadata__"] if key != "sha256")
    metadata.append(("sha256", digest))
    return Pairs((key, metadata if key == "__metadata__" else value) for key, value in tree)


def _tidy(header: dict[str, Any], metadata: dict[str, str], parts: dict[str, bytes]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    data = b""
    for name in sorted(parts, key=lambda each: (_ORDER.index(header[each]["dtype"]), each)):
        offsets = [len(data), len(data) + len(parts[name])]
        entries[name] = {"dtype": header[name]["dtype"], "shape": header[name]["shape"], "data_offsets": offsets}
        data += parts[name]
    text = _compact(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class TaskKind(ContainerKind):
    """Task files."""

    name = "task"

    def parse(self, data: bytes) -> TaskFile:
        """Parse a task file; see `ParsedKind.parse`."""
        return TaskFile.parse(data, "mutant")

    def use(self, item: TaskFile) -> None:
        """Describe a task, and compare it with a bundle; see `ParsedKind.use`."""
        repr((item, item.contents, item.head_class, item.is_two_vectors))
        with contextlib.suppress(MptEdgeError):  # most belong to other bundles
            self.bundle.check_fit(item)


class PromptKind(ContainerKind):
    """Files of shared prompts."""

    name = "prompt"

    def parse(self, data: bytes) -> SharedPrompt:
        """Parse a prompt file; see `ParsedKind.parse`."""
        return SharedPrompt.parse(data, "mutant")

    def use(self, item: SharedPrompt) -> None:
        """Describe a prompt; see `ParsedKind.use`."""
        repr((item, item.length, item.fingerprint))


class ManifestKind(ParsedKind):
    """Manifests."""

    name = "manifest"

    def __init__(self, originals: Sequence[bytes]) -> None:
        """Keep the originals, and their trees."""
        super().__init__(originals)
        self.trees = [read_json(data) for data in self.originals]
        self.has_hash = all("sha256" in dict(tree) for tree in self.trees)

    def parse(self, data: bytes) -> Manifest:
        """Parse a manifest; see `ParsedKind.parse`."""
        return Manifest.parse(data, Path(MANIFEST))

    def rewrite(self, item: Manifest) -> bytes:
        """Return a manifest's JSON; see `ParsedKind.rewrite`."""
        return item.to_json().encode()

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate bytes or the tree; see `Kind.make`."""
        mutator = Mutator(random, self.trees)
        if random.random() < 0.2:
            data = random.choice(self.originals)
            for _ in range(random.choice([1, 1, 2, 5])):
                data = mutator.bytes(data, random.choice(self.originals))
            return data, not self.has_hash
        tree = random.choice(self.trees)
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            tree = mutator.tree(tree)
        sealed = seal_manifest(tree) if self.has_hash and random.random() < 0.9 else None
        data = write_json(tree if sealed is None else sealed, ascii_only=random.random() < 0.3)
        return data, sealed is not None or not self.has_hash

    def use(self, item: Manifest) -> None:
        """List and compare what a manifest describes; see `ParsedKind.use`."""
        reader = BundleReader(Path("nowhere"), item)
        repr((item, reader.task_names, reader.precisions, item.stored_paths, item.prompt_shape(3)))
        if not item.is_same_export(item) and "nan" not in repr(item):
            raise MeaningError("accepted, and differs from itself")
        for question in (reader.graph_files, partial(reader.check_fit, _TASK)):
            with contextlib.suppress(MptEdgeError):  # each such sentence is an answer
                question()


def seal_manifest(tree: Any) -> Any:
    """Return a manifest's tree with the hash of its other entries; None where there is none."""
    try:
        entries = json.loads(write_json(tree))
        entries.pop("sha256", None)
        text = json.dumps(entries, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Pairs([*((key, value) for key, value in tree if key != "sha256"), ("sha256", digest)])
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
