"""``bundle.json``: a bundle's description of itself, read fail-closed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.history import ChangeRecord, is_record
from mpt_edge.formats.key_rotation import PinnedKeys, are_pinned_keys
from mpt_edge.formats.limits import MAX_LAYERS, MAX_LENGTH
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.formats.strict_json import canonical_json, parse_json

#: Version of bundle.json that this code writes, and the newest that it reads.
SCHEMA = 1

#: File name of the manifest.
MANIFEST = "bundle.json"

#: Entry of bundle.json with the SHA-256 of all others.
HASH = "sha256"

#: Folder, in names of files, of those that tasks replaced.
PREVIOUS = "previous"

#: Entries of bundle.json that answers do not depend on.
_HISTORY = {"changes", "retired", "releases"}

#: Size limit of bundle.json in bytes.
MAX_MANIFEST = 8 << 20

#: Largest size or token id; arrays take none far above.
_MAX_COUNT = (1 << 31) - 1

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

#: Paths that a change may write and delete: task files.
_TASK_PATH = re.compile(r"(installed|tasks)/[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")

#: Names of tasks in `Manifest.files`.
_TASK_NAME = re.compile(r"tasks/(.+)\.safetensors")


class Family(StrEnum):
    """Kind of backbone: an encoder, a decoder-only or an encoder-decoder model."""

    ENCODER = "encoder"
    CAUSAL = "causal"
    SEQ2SEQ = "seq2seq"


class Pooling(StrEnum):
    """How an encoder's hidden states become one vector: their mean, the first or the maximum."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


class Precision(StrEnum):
    """Weights of an exported graph."""

    FLOAT32 = "float32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def suffix(self) -> str:
        """End of the graph's file name, as in transformers.js and Optimum."""
        return {Precision.INT8: "_quantized", Precision.INT4: "_q4"}.get(self, "")


class FileEntry(TypedDict):
    """Expected content of a file, and its path where that is not its name."""

    sha256: str
    size: int
    path: NotRequired[str]


class Release(TypedDict):
    """The highest version of a task that was ever installed, and the content hash of its file."""

    version: int
    sha256: str


class PromptEntry(TypedDict):
    """Identity of a shared prompt, for the tasks made for it."""

    fingerprint: str
    layout: str
    length: int


@dataclass(frozen=True)
class MaskToken:
    """The token at which a masked-LM head predicts a word."""

    id: int
    token: str
    """Its spelling in texts."""


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """Properties of a generative backbone."""

    eos_ids: tuple[int, ...]
    """Tokens that end a text."""
    vocabulary: int
    """Number of tokens."""
    context: int
    """Maximum number of positions, prompt and text together."""
    positions_from_zero: bool
    """Whether text positions start at zero in spite of the prompt before it."""
    start_id: int | None = None
    """First token of the decoder of an encoder-decoder model."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of ``bundle.json``."""

    name: str
    family: Family
    head_type: str | None = None
    """Head type of all tasks; None where they differ or there are none."""
    placement: Placement
    """Attention layout and prompt position of the tasks."""
    prompt_length: int
    """Number of virtual tokens l of the shared prompt; of the longest prompt where it takes positions from the text."""
    hidden_size: int
    """Channels d."""
    layers: int
    """Layers of the backbone, of its encoder for encoder-decoder models."""
    heads: int
    """Attention heads of a layer whose keys and values are cached."""
    head_size: int
    """Channels of an attention head."""
    pooling: Pooling | None = None
    """Pooling of an encoder; None for generative models."""
    token_types: bool
    """Whether the graph reads ``token_type_ids``."""
    max_length: int
    """Maximum input length in tokens."""
    pad_id: int
    """Id of the padding token."""
    backbone: Mapping[str, str]
    """Id, revision, license and fingerprint of the frozen model."""
    tokenizer: str
    """Fingerprint of tokenizer.json."""
    prompts: Mapping[str, PromptEntry]
    """Shared prompts by name."""
    parity: Mapping[str, Any] = field(repr=False)
    """Largest difference between ONNX Runtime and PyTorch at export."""
    files: Mapping[str, FileEntry] = field(repr=False)
    """SHA-256 and size of every file, by name: the path at which an export writes it."""
    made_by: str
    """Version of mpt-edge that wrote it."""
    generation: GenerationFacts | None = None
    """Properties of a generative backbone; None for encoders."""
    mask: MaskToken | None = None
    """Mask token of an encoder with a masked-LM head."""
    keys: PinnedKeys | None = None
    """Keys one of which must have signed each task; None where signatures are not checked."""
    releases: Mapping[str, Release] = field(default_factory=dict, repr=False)
    """The highest version of each task, also of tasks that were removed."""
    changes: Sequence[ChangeRecord] = field(default=(), repr=False)
    """The last changes, the newest at the end."""
    retired: Sequence[str] = field(default=(), repr=False)
    """Paths of files that the last change replaced or removed; the next one deletes them."""

    def stored(self, name: str) -> str:
        """Return the path of a listed file within the bundle."""
        return self.files[name].get("path", name)

    @property
    def stored_paths(self) -> set[str]:
        """Paths of all listed files within the bundle."""
        return set(map(self.stored, self.files))

    def is_same_export(self, other: Manifest) -> bool:
        """Whether two manifests differ at most by changes to tasks and keys."""
        changed: dict[str, Any] = {"keys": None, "files": {}, "releases": {}, "changes": (), "retired": ()}
        return replace(self, **changed) == replace(other, **changed)

    @property
    def is_generative(self) -> bool:
        """Whether the backbone generates text."""
        return self.generation is not None

    def prompt_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of a prompt of ``length`` virtual tokens: ``(l, d)``, or ``(l, layers, d)``."""
        layers = (self.layers,) if self.placement.ndim == 3 else ()
        return (length, *layers, self.hidden_size)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest without its history: one number for all that answers depend on.

        Two bundles with the same files have the same digest, however they came to them. The history is `changes`,
        `retired`, `releases`, the files that tasks replaced, and the paths of installed files.
        """
        files = {
            name: {"sha256": entry["sha256"], "size": entry["size"]}
            for name, entry in self.files.items()
            if not name.startswith(f"{PREVIOUS}/")
        }
        entries = self._entries() | {"files": files}
        return _sha256({name: entry for name, entry in entries.items() if name not in _HISTORY})

    def to_json(self) -> str:
        """Return the manifest as indented JSON, the schema version first and its hash last."""
        entries = self._entries()
        return json.dumps(entries | {HASH: _sha256(entries)}, indent=2, ensure_ascii=False) + "\n"

    def _entries(self) -> dict[str, Any]:
        """Return all entries of bundle.json but the hash."""
        entries = {"schema": SCHEMA} | self.__dict__
        placement = entries.pop("placement")
        entries |= {"layout": placement.layout, "prompt_position": placement.position}
        entries |= {name: part and asdict(part) for name in ("generation", "mask") for part in (entries[name],)}
        entries["keys"] = self.keys and self.keys.to_entries()
        return entries | {"changes": [asdict(record) for record in self.changes], "retired": list(self.retired)}

    @classmethod
    def parse(cls, data: bytes, source: Path) -> Manifest:
        """Read a manifest's bytes.

        Raises:
            CorruptFileError: no manifest, an incomplete or a changed one, or one of a newer version.
        """
        try:
            entries = parse_json(data)
            schema = entries.pop("schema")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptFileError(f"{source} is not a bundle manifest; export the bundle again.") from error
        if type(schema) is not int or schema < 1:
            raise CorruptFileError(
                f"{source} states the schema {schema!r}, which does not exist; export the bundle again."
            )
        if schema > SCHEMA:
            raise CorruptFileError(
                f"{source} was written by a newer mpt-edge (schema {schema}; this one reads {SCHEMA}); upgrade it."
            )
        _check_hash({"schema": schema} | entries, source)
        missing = next((name for name in _NAMES if name not in entries), None)
        if missing is not None:
            raise CorruptFileError(f"{source} lacks the entry {missing!r}; export the bundle again.")
        wrong = next(_wrong(entries), None)
        if wrong is not None:
            raise CorruptFileError(f"{source}: the entry {wrong!r} cannot be used; export the bundle again.")
        for path in _bad_paths(entries):
            raise CorruptFileError(f"{source} lists the path {path!r}, which is not allowed; export it again.")
        return cls(**_parsed(entries))


def read_manifest(path: Path) -> Manifest:
    """Read ``bundle.json``. Raises CorruptFileError."""
    return Manifest.parse(read_small(path, MAX_MANIFEST), path)


def _sha256(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def _check_hash(entries: Mapping[str, Any], source: Path) -> None:
    """Compare a manifest with its own hash. Raises CorruptFileError."""
    if HASH not in entries:
        raise CorruptFileError(f"{source} lacks the entry {HASH!r}; export the bundle again.")
    rest = {name: entry for name, entry in entries.items() if name != HASH}
    try:
        is_whole = entries[HASH] == _sha256(rest)
    except (ValueError, RecursionError):  # a text that has no UTF-8
        is_whole = False
    if not is_whole:
        raise CorruptFileError(
            f"{source} is damaged or was edited (its {HASH} is not that of its entries); restore it or export again."
        )


#: Entries of bundle.json besides the schema and the hash.
_NAMES = [*(name for name in Manifest.__dataclass_fields__ if name != "placement"), "layout", "prompt_position"]


def _parsed(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest's fields, from entries that were checked."""
    fields = {name: entries[name] for name in Manifest.__dataclass_fields__ if name in entries}
    generation, mask, pooling = (entries[name] for name in ("generation", "mask", "pooling"))
    return fields | {
        "family": Family(entries["family"]),
        "placement": Placement(Layout(entries["layout"]), PromptPosition(entries["prompt_position"])),
        "pooling": None if pooling is None else Pooling(pooling),
        "generation": generation
        and GenerationFacts(
            eos_ids=tuple(generation["eos_ids"]),
            vocabulary=generation["vocabulary"],
            context=generation["context"],
            positions_from_zero=generation["positions_from_zero"],
            start_id=generation.get("start_id"),
        ),
        "mask": mask and MaskToken(mask["id"], mask["token"]),
        "keys": entries["keys"] and PinnedKeys.parse(entries["keys"]),
        "changes": tuple(map(ChangeRecord.parse, entries["changes"])),
        "retired": tuple(entries["retired"]),
    }


def _bad_paths(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield paths that leave the bundle, and task files elsewhere than a change puts them."""
    yield from (name for name in entries["files"] if _PATH.fullmatch(name) is None)
    moved = [entry["path"] for entry in entries["files"].values() if "path" in entry]
    yield from (path for path in (*moved, *entries["retired"]) if _TASK_PATH.fullmatch(str(path)) is None)


def _wrong(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of entries that have the wrong type or an unknown value."""
    is_encoder, generation = entries["family"] == Family.ENCODER, entries["generation"]
    good = {name: isinstance(entries[name], str) for name in ("name", "tokenizer", "made_by")}
    good |= {name: _is_count(entries[name]) for name in ("prompt_length", "pad_id")}
    good |= {name: _is_count(entries[name], minimum=1) for name in ("hidden_size", "heads", "head_size")}
    good |= {
        name: _is_count(entries[name], minimum=1) and entries[name] <= limit
        for name, limit in (("layers", MAX_LAYERS), ("max_length", MAX_LENGTH))
    }
    good |= {
        "family": _is_member(entries["family"], Family),
        "head_type": entries["head_type"] is None or isinstance(entries["head_type"], str),
        "layout": _is_member(entries["layout"], Layout),
        "prompt_position": Placement.parse(entries["layout"], entries["prompt_position"]) is not None,
        "pooling": _is_member(entries["pooling"], Pooling) if is_encoder else entries["pooling"] is None,
        "token_types": isinstance(entries["token_types"], bool),
        "generation": generation is None
        if is_encoder
        else _is_generation(generation, has_start=entries["family"] == Family.SEQ2SEQ),
        "mask": entries["mask"] is None or _is_mask(entries["mask"]),
        "prompts": _all_are(entries["prompts"], {"length": int, "fingerprint": str}),
        "files": _all_are(entries["files"], {"size": int, "sha256": str}),
        "keys": entries["keys"] is None or are_pinned_keys(entries["keys"]),
        "releases": _are_releases(entries["releases"], entries["files"]),
        "changes": isinstance(entries["changes"], list) and all(map(is_record, entries["changes"])),
        "retired": isinstance(entries["retired"], list),
    }
    good |= {name: isinstance(entries[name], dict) for name in ("backbone", "parity")}
    yield from (name for name, is_good in good.items() if not is_good)


def _all_are(value: object, kinds: Mapping[str, type]) -> bool:
    """Whether a value maps names to objects with entries of these types."""
    return isinstance(value, dict) and all(
        isinstance(item, dict) and all(type(item.get(name)) is kind for name, kind in kinds.items())
        for item in value.values()
    )


def _are_releases(entries: object, files: object) -> bool:
    """Whether entries state the highest version of each task, and of every listed one."""
    return (
        isinstance(files, dict)
        and isinstance(entries, dict)
        and _all_are(entries, {"version": int, "sha256": str})
        and all(_is_count(entry["version"], minimum=1) for entry in entries.values())
        and {match[1] for match in map(_TASK_NAME.fullmatch, files) if match} <= set(entries)
    )


def _is_mask(entries: object) -> bool:
    return isinstance(entries, dict) and _is_count(entries.get("id")) and isinstance(entries.get("token"), str)


def _is_generation(entries: object, *, has_start: bool) -> bool:
    if not isinstance(entries, dict):
        return False
    ids = entries.get("eos_ids")
    return (
        isinstance(ids, list)
        and all(map(_is_count, ids))
        and all(_is_count(entries.get(name), minimum=1) for name in ("vocabulary", "context"))
        and type(entries.get("positions_from_zero")) is bool
        and (not has_start or _is_count(entries.get("start_id")))
    )


def _is_count(value: object, minimum: int = 0) -> bool:
    """Whether a value is an integer that sizes and token ids can be."""
    return type(value) is int and minimum <= value <= _MAX_COUNT


def _is_member(value: object, kind: type[StrEnum]) -> bool:
    return isinstance(value, str) and value in list(kind)
