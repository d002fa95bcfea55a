"""Kinds of mutants that are loaded and answer: tokenizers, graphs, manifests of bundles, and tasks."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

import mpt_edge
from attacks.mutant_kinds import Kind, TaskKind, memory_folder, seal_manifest
from attacks.mutating import Mutator, read_json, write_json
from mpt_edge.formats.bundle_reader import MODEL, TOKENIZER, hash_bytes
from mpt_edge.formats.manifest import MANIFEST, read_manifest
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.text import TextEncoder

TEXTS = ["a witty film", "Ünlike 12 é🙂 \u200b!", "vote " * 40, "!" * 300]


class TokenizerKind(Kind):
    """Tokenizers alone."""

    name = "tokenizer"

    def __init__(self, originals: list[bytes]) -> None:
        """Keep the originals, and their trees."""
        self.originals, self.trees = originals, [read_json(data) for data in originals]

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate bytes or the tree; see `Kind.make`."""
        mutator = Mutator(random, self.trees)
        if random.random() < 0.15:
            return mutator.bytes(random.choice(self.originals), random.choice(self.originals)), True
        tree = random.choice(self.trees)
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            tree = mutator.tree(tree)
        return write_json(tree), True

    def check(self, data: bytes, *, is_sealed: bool) -> str:  # noqa: ARG002
        """Load a tokenizer, and read texts by it in all ways; see `Kind.check`."""
        encoder = TextEncoder(data, source="mutant")
        rows = encoder.encode(TEXTS, 16, offsets=True)
        pairs = encoder.encode([(text, TEXTS[0]) for text in TEXTS], 16)
        if any(row.ids for row in rows):
            encoder.pad(rows + pairs)
        for text, row in zip(TEXTS, rows, strict=True):
            encoder.is_unknown(text, row)
        encoder.tokenizer.decode([i for row in rows for i in row.ids])
        encoder.words(["film"])
        encoder.fit("It was {text}", TEXTS[2], 12)
        return "different"


class BundleKind(Kind):
    """Files of a bundle that is loaded and answers."""

    file: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ()
    """Tasks that answer; all of them by default."""

    def __init__(self, bundle: Path) -> None:
        """Keep the bundle; it is not changed."""
        self.bundle = bundle
        self.data = (bundle / self.file).read_bytes()

    def begin(self) -> None:
        """Copy the bundle; see `Kind.begin`."""
        self.folder = memory_folder("mutants-")
        self.copy = Path(shutil.copytree(self.bundle, self.folder / "bundle"))

    def end(self) -> None:
        """Remove the copy; see `Kind.end`."""
        shutil.rmtree(self.folder)

    def check(self, data: bytes, *, is_sealed: bool) -> str:  # noqa: ARG002
        """Put a mutant into the bundle, load it and answer; see `Kind.check`."""
        self.put(data)
        model = mpt_edge.load(self.copy, threads=1)
        model.embed(TEXTS[:2])
        for name in self.tasks or model.tasks:
            model.task(name)(TEXTS[:2])
        return "different"

    @abstractmethod
    def put(self, data: bytes) -> None:
        """Write a mutant, and a manifest that fits it."""

    def list_file(self, **changes: Any) -> None:
        """Write a manifest with the hash of the file as it is now."""
        data = (self.copy / self.file).read_bytes()
        manifest = read_manifest(self.bundle / MANIFEST)
        entry = manifest.files[self.file] | {"sha256": hash_bytes(data), "size": len(data)}
        files = {**manifest.files, self.file: entry, **changes.pop("files", {})}
        (self.copy / MANIFEST).write_text(replace(manifest, files=files, **changes).to_json(), "utf-8")


class BundleManifestKind(BundleKind):
    """Manifests of a bundle that is loaded."""

    name = "bundle"
    file = MANIFEST

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate the tree; see `Kind.make`."""
        tree, mutator = read_json(self.data), Mutator(random)
        for _ in range(random.choice([1, 1, 2])):
            tree = mutator.tree(tree)
        sealed = seal_manifest(tree)
        return write_json(tree if sealed is None else sealed), True

    def put(self, data: bytes) -> None:
        """Write the manifest; see `BundleKind.put`."""
        (self.copy / MANIFEST).write_bytes(data)


class BundleTokenizerKind(BundleKind):
    """Tokenizers of a bundle that is loaded, with a task for it."""

    name = "bundle tokenizer"
    tasks = ("topic",)
    file = TOKENIZER

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate the tree; see `Kind.make`."""
        tree, mutator = read_json(self.data), Mutator(random)
        for _ in range(random.choice([1, 1, 2])):
            tree = mutator.tree(tree)
        return write_json(tree), True

    def put(self, data: bytes) -> None:
        """Write tokenizer, task and manifest; see `BundleKind.put`."""
        (self.copy / TOKENIZER).write_bytes(data)
        fingerprint, key = hash_bytes(data), "tasks/topic.safetensors"
        replace(TaskFile.load(self.bundle / key), tokenizer=fingerprint).save(self.copy / key)
        task = (self.copy / key).read_bytes()
        self.list_file(tokenizer=fingerprint, files={key: {"sha256": hash_bytes(task), "size": len(task)}})


class GraphKind(BundleKind):
    """Graphs of a bundle that is loaded."""

    name = "graph"
    file = MODEL

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Mutate bytes, or parts of the graph; see `Kind.make`."""
        if random.random() < 0.25:
            return Mutator(random).bytes(self.data, self.data), True
        return GraphMutator(random).graph(self.data, random.choice([1, 1, 2, 4])), True

    def put(self, data: bytes) -> None:
        """Write graph and manifest; see `BundleKind.put`."""
        (self.copy / MODEL).write_bytes(data)
        self.list_file()


class AnswerKind(TaskKind):
    """Tasks whose mutants are added to a loaded model and answer."""

    name = "answers"

    def __init__(self, bundle: Path) -> None:
        """Take the tasks of a bundle."""
        super().__init__([path.read_bytes() for path in sorted((bundle / "tasks").iterdir())])
        self.bundle_folder = bundle

    def begin(self) -> None:
        """Load the model; see `Kind.begin`."""
        super().begin()
        self.model = mpt_edge.load(self.bundle_folder, threads=1)
        self.model.task("topic")(TEXTS[0])

    def check(self, data: bytes, *, is_sealed: bool) -> str:
        """Add the task, and answer; see `Kind.check`."""
        path = self.folder / "mutant.safetensors"
        path.write_bytes(data)
        task = self.model.add_task(path)
        pair = task.file.inputs == "pair"
        task([(text, TEXTS[0]) for text in TEXTS] if pair else TEXTS)
        return super().check(data, is_sealed=is_sealed)


class GraphMutator:
    """Mutations of ONNX graphs."""

    def __init__(self, random: Random) -> None:
        """Keep the generator."""
        self.random = random

    def graph(self, data: bytes, count: int) -> bytes:
        """Return a graph with ``count`` mutations."""
        import onnx

        model = onnx.ModelProto.FromString(data)
        for _ in range(count):
            self._mutate(model)
        return bytes(model.SerializeToString())

    def _mutate(self, model: Any) -> None:
        random, graph = self.random, model.graph
        node = random.choice(graph.node)
        other = random.choice(graph.node)
        names = [*(name for each in (node, other) for name in each.output), *(each.name for each in graph.initializer)]
        match random.randrange(11):
            case 0:
                node.op_type = random.choice(
                    [other.op_type, "Identity", "Loop", "If", "ConstantOfShape", "Tile", "Nope"]
                )
            case 1 if node.input:
                node.input[random.randrange(len(node.input))] = random.choice([*names, "", "input_ids", "prompt"])
            case 2 if node.input:
                del node.input[random.randrange(len(node.input))]
            case 3:
                graph.node.remove(node)
            case 4:
                graph.node.insert(random.randrange(len(graph.node)), other)
            case 5 if node.attribute:
                self._attribute(random.choice(node.attribute))
            case 6 | 7:
                self._tensor(random.choice(graph.initializer))
            case 8:
                self._value(random.choice([*graph.input, *graph.output]))
            case 9:
                model.ir_version = random.choice([0, 3, 99, (1 << 62)])
                model.opset_import[0].version = random.choice([0, 1, 9, 13, 23, 99])
            case _:
                node.domain = random.choice(["ai.onnx.ml", "com.microsoft", "x"])

    def _attribute(self, attribute: Any) -> None:
        number = self.random.choice([0, -1, 1, 2, 99, (1 << 31) - 1, (1 << 62), -(1 << 63)])
        attribute.i, attribute.f = number, float(number)
        attribute.ints.append(number)
        if attribute.HasField("t"):
            self._tensor(attribute.t)

    def _tensor(self, tensor: Any) -> None:
        random = self.random
        number = random.choice([0, -1, 1, 3, 1000, (1 << 31) - 1, (1 << 62)])
        match random.randrange(5):
            case 0 if tensor.dims:
                tensor.dims[random.randrange(len(tensor.dims))] = number
            case 1:
                tensor.data_type = random.randrange(24)
            case 2 if tensor.raw_data:
                data = np.frombuffer(tensor.raw_data, np.uint8).copy()
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
                tensor.raw_data = data.tobytes()
            case 3 if tensor.external_data:
                entry = random.choice(tensor.external_data)
                entry.value = random.choice(["/etc/passwd", "../tokenizer.json", "x", "", str(number), "9" * 30])
            case _:
                tensor.dims.append(number)

    def _value(self, value: Any) -> None:
        random, kind = self.random, value.type.tensor_type
        match random.randrange(4):
            case 0:
                value.name = random.choice(["x", "", "input_ids", "last_hidden_state"])
            case 1:
                kind.elem_type = random.randrange(24)
            case 2 if kind.shape.dim:
                random.choice(kind.shape.dim).dim_value = random.choice([0, 1, -1, 7, 1 << 40])
            case _:
                kind.shape.dim.add().dim_value = 2
