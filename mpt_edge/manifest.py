"""``bundle.json``: what a bundle says about itself, read fail-closed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpt_edge.errors import CorruptFileError
from mpt_edge.prompts import ENTRIES, EVERY_LAYER, LAYOUTS
from mpt_edge.taskfile import READOUTS

#: Version of bundle.json that this code writes, and the newest it reads.
SCHEMA = 1

_ALLOWED: dict[str, tuple[str | bool, ...]] = {
    "family": ("encoder", "causal", "seq2seq"),
    "readout": READOUTS,
    "layout": LAYOUTS,
    "entry": ENTRIES,
    "pooling": ("mean", "cls", "max", "none"),
    "token_types": (True, False),
}

#: Largest size or id of a token; arrays take none that is far above.
_MOST = (1 << 31) - 1

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Manifest:
    """What ``bundle.json`` says.

    Attributes:
        name: the bundle's name.
        family: ``"encoder"``, ``"causal"`` for decoder-only models, or ``"seq2seq"``.
        readout: that of its tasks, one of `READOUTS`; each task file states its own.
        layout: attention layout of the tasks, ``"prefix"`` or ``"joint"``.
        entry: where prompts enter, ``"first_layer"`` (behind the embeddings' norm), ``"inputs_embeds"``
            (in front of it, as PEFT feeds them; text positions then count from behind the prompt), or
            ``"every_layer"`` (with rows of their own for each layer).
        prompt_length: rows l of the shared prompt.
        hidden_size: channels d.
        layers: layers of the backbone.
        heads: attention heads of a layer whose keys and values are cached.
        head_size: channels of a head.
        pooling: ``"mean"``, ``"cls"`` or ``"max"`` over text tokens; ``"none"`` where text is generated.
        token_types: whether the graph reads ``token_type_ids``.
        max_length: longest text in tokens.
        pad_id: id of the padding token.
        backbone: id, revision, licence and fingerprint of the frozen model.
        tokenizer: fingerprint of tokenizer.json.
        prompts: shared prompts by name, with fingerprint, layout and length.
        parity: largest difference between ONNX Runtime and PyTorch when the bundle was made.
        files: path -> sha256 and size of every file.
        made_by: version of mpt-edge that wrote it.
        generation: for models that generate: ``eos_ids``, ``vocabulary`` (size), ``context`` (most rows of
            prompt and text), ``positions_from_zero`` (whether text is counted without its prompt), and for
            ``"seq2seq"`` ``start_id`` (the token that every text begins behind).
        mask: for encoders with a masked-LM head: ``id`` and ``token`` of the mask.
    """

    name: str
    family: str
    readout: str
    layout: str
    entry: str
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
    prompts: Mapping[str, Mapping[str, Any]]
    parity: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    made_by: str
    generation: Mapping[str, Any] = field(default_factory=dict)
    mask: Mapping[str, Any] = field(default_factory=dict)

    def prompt_shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of a prompt of ``length`` rows: ``(l, d)``, or ``(l, layers, d)`` for every layer."""
        layers = (self.layers,) if self.entry == EVERY_LAYER else ()
        return (length, *layers, self.hidden_size)

    def to_json(self) -> str:
        """Return the manifest as indented JSON, the schema version first."""
        return json.dumps({"schema": SCHEMA} | self.__dict__, indent=2, ensure_ascii=False) + "\n"

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
        missing = [name for name in known if name not in entries and name not in ("generation", "mask")]
        if missing:
            raise CorruptFileError(f"{source} lacks the entry {missing[0]!r}; export the bundle again.")
        manifest = cls(**{name: entries[name] for name in known if name in entries})
        for name in manifest._wrong():
            raise CorruptFileError(f"{source}: the entry {name!r} is not what it should be; export the bundle again.")
        for path in manifest.files:
            if _PATH.fullmatch(path) is None:
                raise CorruptFileError(f"{source} lists the path {path!r}, which is not allowed; export it again.")
        return manifest

    def _wrong(self) -> list[str]:
        """Return the names of entries that have the wrong type or an unknown value."""
        texts = {"name": self.name, "tokenizer": self.tokenizer, "made_by": self.made_by}
        counts = {"prompt_length": self.prompt_length, "pad_id": self.pad_id}
        sizes = {name: getattr(self, name) for name in ("hidden_size", "layers", "heads", "head_size", "max_length")}
        good = {name: isinstance(value, str) for name, value in texts.items()}
        good |= {name: _is_count(value) for name, value in counts.items()}
        good |= {name: _is_count(value, least=1) for name, value in sizes.items()}
        good |= {name: _is_one_of(getattr(self, name), allowed) for name, allowed in _ALLOWED.items()}
        good["backbone"] = isinstance(self.backbone, dict)
        good["generation"] = self.family == "encoder" or _generates(self.generation, seq2seq=self.family == "seq2seq")
        good["mask"] = self.mask == {} or _masks(self.mask)
        good["parity"] = isinstance(self.parity, dict)
        good["prompts"] = isinstance(self.prompts, dict) and all(
            isinstance(p, dict) and type(p.get("length")) is int and isinstance(p.get("fingerprint"), str)
            for p in self.prompts.values()
        )
        good["files"] = isinstance(self.files, dict) and all(
            isinstance(f, dict) and type(f.get("size")) is int and isinstance(f.get("sha256"), str)
            for f in self.files.values()
        )
        return [name for name, is_good in good.items() if not is_good]


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
    return any(type(value) is type(choice) and value == choice for choice in allowed)
