"""Kinds of mutants that Hypothesis makes: whole files whose parts have arbitrary values."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from attacks.mutant_kinds import ContainerKind, Kind, ManifestKind, ParsedKind, join, seal, seal_manifest, split
from attacks.mutating import Pairs, write_json
from mpt_edge.errors import MptEdgeError

#: Number of files that are made from one seed.
EXAMPLES = 100

_NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(-3, 300))

#: Any JSON; half characters too, which JSON writes as escapes.
_TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=4)),
    max_leaves=12,
)

_SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
_TENSORS = st.one_of(
    *(arrays.arrays(dtype, _SHAPES) for dtype in (np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_))
)


class GeneratedKind(Kind):
    """Files that Hypothesis makes, `EXAMPLES` for each number; failures are shrunk."""

    per_number: ClassVar[int] = EXAMPLES
    max_seconds: ClassVar[float] = 60.0

    def __init__(self, kind: ParsedKind, strategy: st.SearchStrategy[bytes]) -> None:
        """Keep the kind that checks the files."""
        self.name = f"generated {kind.name}"  # type: ignore[misc]
        self.kind, self.strategy = kind, strategy

    def begin(self) -> None:
        """Prepare the kind that checks; see `Kind.begin`."""
        self.kind.begin()

    def end(self) -> None:
        """Clean up; see `Kind.end`."""
        self.kind.end()

    def make(self, random: Random) -> tuple[bytes, bool]:
        """Return a seed; see `Kind.make`."""
        return struct.pack("<q", random.getrandbits(62)), True

    def check(self, data: bytes, *, is_sealed: bool) -> str:
        """Make files from a seed, and check each; see `Kind.check`."""

        @with_seed(int.from_bytes(data, "little"))
        @settings(
            max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )  # fmt: skip
        @given(self.strategy)
        def check_each(file: bytes) -> None:
            try:
                self.kind.check(file, is_sealed=is_sealed)
            except MptEdgeError:
                pass
            except Exception:
                raise
            except BaseException as error:  # Hypothesis shrinks only exceptions
                raise RuntimeError(f"{type(error).__name__}: {error}") from error

        check_each()
        return "made"


def generated_container(kind: ContainerKind) -> GeneratedKind:
    """Return tasks or prompts with arbitrary metadata and tensors, and the right hash."""
    headers = [dict(tree) for tree, _ in kind.parts]
    metadata = [dict(header["__metadata__"]) for header in headers]
    tensors = sorted({name for header in headers for name in header if name != "__metadata__"})

    def build(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
        entries = dict(draw(st.sampled_from(metadata)))
        names = st.sampled_from(sorted(entries))
        for name in draw(st.sets(names, max_size=4)):
            value = draw(st.one_of(JSON.map(lambda item: write_json(item).decode()), _TEXTS))
            entries[name] = value if draw(st.integers(0, 9)) else ""
        for name in draw(st.sets(names, max_size=2)):
            del entries[name]
        number = draw(st.integers(0, len(kind.parts) - 1))
        given_tensors = load(kind.originals[number])
        for name in draw(st.sets(st.sampled_from(tensors), max_size=2)):
            given_tensors[name] = draw(_TENSORS)
        tree, buffer = split(save(given_tensors))
        tree = Pairs([("__metadata__", Pairs(entries.items())), *tree])
        return seal(tree, buffer) or join(tree, buffer)

    return GeneratedKind(kind, st.composite(build)())


def generated_manifest(kind: ManifestKind) -> GeneratedKind:
    """Return manifests with arbitrary values in some entries."""
    trees = [dict(tree) for tree in kind.trees]
    names = st.sampled_from(sorted(trees[0]))

    def build(draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
        entries = dict(draw(st.sampled_from(trees)))
        changed = draw(st.dictionaries(names, JSON, max_size=4))
        inner = draw(st.sampled_from([name for name, value in entries.items() if isinstance(value, Pairs) and value]))
        inside = dict(entries[inner]) | draw(st.dictionaries(st.sampled_from(sorted(dict(entries[inner]))), JSON))
        tree = Pairs({**entries, inner: inside, **changed}.items())
        return write_json(seal_manifest(tree) or tree, ascii_only=draw(st.booleans()))

    return GeneratedKind(kind, st.composite(build)())
