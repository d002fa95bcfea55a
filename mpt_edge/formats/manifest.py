"""``bundle.json``: what a bundle says about itself, read fail-closed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.prompts import Entry, Layout

#: Version of bundle.json that this code writes, and the newest it reads.
SCHEMA = 1

_ALLOWED: dict[str, tuple[str | bool, ...]] = {
    "family": ("encoder", "causal", "seq2seq"),
    "readout": tuple(READOUTS),
    "layout": tuple(Layout),
    "entry": tuple(Entry),
    "pooling": ("mean", "cls", "max", "none"),
    "token_types": (True, False),
}

#: Largest size or id of a token; arrays take none that is far above.
_MOST = (1 << 31) - 1

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class FileEntry(TypedDict):
    """A file of the bundle: what it must be."""

    sha256: str
    size: int


class PromptEntry(TypedDict):
    """A shared prompt: what its tasks must have been made for."""

    fingerprint: str
    layout: Layout
    length: int


@dataclass(frozen=True)
class Mask:
    """The token that stands where a masked-LM head guesses a word.

    Attributes:
        id: its id.
        token: how texts write it.
    """

    id: int
    token: str


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """What there is to know of a model that writes.

    Attributes:
        eos_ids: tokens that end a text.
        vocabulary: its size.
        context: most rows of prompt and text.
        positions_from_zero: whether text is counted without its prompt.
        start_id: the token that every text begins behind, of an encoder-decoder model.
    """

    eos_ids: tuple[int, ...]
    vocabulary: int
    context: int
    positions_from_zero: bool
    start_id: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What ``bundle.json`` says.

    Attributes:
        name: the bundle's name.
        family: ``"encoder"``, ``"causal"`` for decoder-only models, or ``"seq2seq"``.
        readout: that of its tasks, one of `READOUTS`; each task file states its own.
        layout: attention layout of the tasks.
        entry: where prompts enter; the first layer is behind the embeddings' norm, and embeddings are in front of it,
            where text positions count from behind the prompt.
        prompt_length: rows l of the shared prompt.
        hidden_size: channels d.
        layers: layers of the backbone.
        heads: attention heads of a layer whose keys and values are cached.
        head_size: channels of a head.
        pooling: ``"mean"``, ``"cls"`` or ``"max"`` over text tokens; ``"none"`` where text is generated.
        token_types: whether the graph reads ``token_type_ids``.
        max_length: longest text in tokens.
        pad_id: id of the padding token.
        backbone: id, revision, license and fingerprint of the frozen model.
        tokenizer: fingerprint of tokenizer.json.
        prompts: shared prompts by name, with fingerprint, layout and length.
        parity: largest difference between ONNX Runtime and PyTorch when the bundle was made.
        files: path -> sha256 and size of every file.
        made_by: version of mpt-edge that wrote it.
        generation: of a model that writes, else None.
        mask: of an encoder with a masked-LM head, else None.
    """

    name: str
    family: str
    readout: str
    layout: Layout
    entry: Entry
    prompt_length: int
    hidden_size: int
    layers: int
    heads: int
    head_size: int
    pooling: str
    token_types: bool
    max_length: int
    pad_id: int
    backbone: Mapping[str, str]
    tokenizer: str
    prompts: Mapping[str, PromptEntry]
    parity: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    made_by: str
    generation: GenerationFacts | None = None
    mask: Mask | None = None

    def prompt_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of a prompt of ``length`` rows: ``(l, d)``, or ``(l, layers, d)`` for every layer."""
        layers = (self.layers,) if self.entry == Entry.EVERY_LAYER else ()
        return (length, *layers, self.hidden_size)

    def to_json(self) -> str:
        """Return the manifest as indented JSON, the schema version first."""
        parts = {"generation": _entries(self.generation), "mask": _entries(self.mask)}
        return json.dumps({"schema": SCHEMA} | self.__dict__ | parts, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, data: bytes, source: Path) -> Manifest:
        """Read a manifest's bytes.

        Raises:
            CorruptFileError: no manifest, an incomplete one, or one of a newer version.
        """
        try:
            entries = json.loads(data)
            schema = entries.pop("schema")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise CorruptFileError(f"{source} is not a bundle manifest; export the bundle again.") from error
        if type(schema) is not int or schema < 1:
            raise CorruptFileError(f"{source} states the schema {schema!r}, which never was; export the bundle again.")
        if schema > SCHEMA:
            raise CorruptFileError(
                f"{source} was written by a newer mpt-edge (schema {schema}; this one reads {SCHEMA}); upgrade it."
            )
        known = cls.__dataclass_fields__
        entries = {"generation": {}, "mask": {}} | {name: entries[name] for name in known if name in entries}
        missing = [name for name in known if name not in entries]
        if missing:
            raise CorruptFileError(f"{source} lacks the entry {missing[0]!r}; export the bundle again.")
        for name in _wrong(entries):
            raise CorruptFileError(f"{source}: the entry {name!r} is not what it should be; export the bundle again.")
        for path in entries["files"]:
            if _PATH.fullmatch(path) is None:
                raise CorruptFileError(f"{source} lists the path {path!r}, which is not allowed; export it again.")
        parsed = {
            "layout": Layout(entries["layout"]),
            "entry": Entry(entries["entry"]),
            "generation": _generation(entries["generation"]),
            "mask": Mask(entries["mask"]["id"], entries["mask"]["token"]) if entries["mask"] else None,
        }
        return cls(**entries | parsed)


def _entries(part: GenerationFacts | Mask | None) -> dict[str, Any]:
    """Return what is written of an entry that some bundles have."""
    return {} if part is None else {name: value for name, value in asdict(part).items() if value is not None}


def _generation(entries: Mapping[str, Any]) -> GenerationFacts | None:
    if not entries:
        return None
    return GenerationFacts(
        eos_ids=tuple(entries["eos_ids"]),
        vocabulary=entries["vocabulary"],
        context=entries["context"],
        positions_from_zero=entries["positions_from_zero"],
        start_id=entries.get("start_id"),
    )


def _wrong(entries: Mapping[str, Any]) -> list[str]:
    """Return the names of entries that have the wrong type or an unknown value."""
    good = {name: isinstance(entries[name], str) for name in ("name", "tokenizer", "made_by")}
    good |= {name: _is_count(entries[name]) for name in ("prompt_length", "pad_id")}
    sizes = ("hidden_size", "layers", "heads", "head_size", "max_length")
    good |= {name: _is_count(entries[name], least=1) for name in sizes}
    good |= {name: _is_one_of(entries[name], allowed) for name, allowed in _ALLOWED.items()}
    good |= {name: isinstance(entries[name], dict) for name in ("backbone", "parity")}
    family, facts = entries["family"], entries["generation"]
    good["generation"] = facts == {} if family == "encoder" else _generates(facts, seq2seq=family == "seq2seq")
    good["mask"] = entries["mask"] == {} or _masks(entries["mask"])
    good["prompts"] = _all_are(entries["prompts"], {"length": int, "fingerprint": str})
    good["files"] = _all_are(entries["files"], {"size": int, "sha256": str})
    return [name for name, is_good in good.items() if not is_good]


def _all_are(found: object, kinds: Mapping[str, type]) -> bool:
    """Return whether a value maps names to objects with entries of these types."""
    return isinstance(found, dict) and all(
        isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in kinds.items())
        for value in found.values()
    )


def _masks(entries: object) -> bool:
    """Return whether the entries of a masked-LM head are there and of their types."""
    return isinstance(entries, dict) and _is_count(entries.get("id")) and isinstance(entries.get("token"), str)


def _generates(entries: object, *, seq2seq: bool) -> bool:
    """Return whether the entries of a model that generates are there and of their types."""
    if not isinstance(entries, dict):
        return False
    ids = entries.get("eos_ids")
    return (
        isinstance(ids, list)
        and all(map(_is_count, ids))
        and all(_is_count(entries.get(name), least=1) for name in ("vocabulary", "context"))
        and type(entries.get("positions_from_zero")) is bool
        and (not seq2seq or _is_count(entries.get("start_id")))
    )


def _is_count(value: object, least: int = 0) -> bool:
    """Return whether a value is a whole number that sizes and ids of tokens can have."""
    return type(value) is int and least <= value <= _MOST


def _is_one_of(value: object, allowed: tuple[str | bool, ...]) -> bool:
    return isinstance(value, str | bool) and value in allowed  # a number can equal a truth value, and is none
