"""Finding a backbone and everything that must travel with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.text import TextEncoder
from mpt_edge.training.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from mpt_edge.training.masked import TRANSFORMS, MaskedHead
from mpt_edge.training.modernbert import PromptedModernBert
from mpt_edge.training.prompted import ARCHITECTURES, ATTENTION, PromptedEncoder
from mpt_edge.training.seq2seq import SEQ2SEQ_ARCHITECTURES, PromptedSeq2Seq
from mpt_edge.training.sources import PACKAGED, locate_model, read_json, read_mask, read_model, read_tokenizer


@dataclass(frozen=True)
class Mask:
    """The token that stands where a word is to be guessed.

    Attributes:
        id: its id.
        token: how texts write it.
    """

    id: int
    token: str


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
        fingerprint: SHA-256 over the names, shapes and float32 values of all weights in use, without a head's.
        mask: the mask of a model that has a masked-LM head, or None.
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
    mask: Mask | None = None


def load_backbone(source: str, revision: str | None = None) -> Backbone:
    """Load a backbone from a short name, a local folder or a hub id.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: its architecture or pooling cannot be used.
        CorruptFileError: files are missing or damaged.
    """
    found = locate_model(source, revision)
    folder = found.folder
    kind = model_type(source, folder)
    if kind in CAUSAL_ARCHITECTURES or kind in SEQ2SEQ_ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source} writes text, and this needs an encoder; use one of {', '.join(sorted(ARCHITECTURES))}."
        )
    if kind not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source} is a {kind!r} model, which cannot carry a prompt yet; use one of {supported()}."
        )
    mask = _mask(folder)
    family = AutoModel if mask is None else AutoModelForMaskedLM
    model = read_model(family, folder, ATTENTION)
    carrier = PromptedModernBert if kind == "modernbert" else PromptedEncoder
    prompted = carrier(model) if mask is None else carrier(model.base_model, MaskedHead(model))
    tokenizer_json, pad_id = read_tokenizer(folder)
    return Backbone(
        name=source if source in PACKAGED else found.id.rsplit("/", 1)[-1],
        id=found.id,
        revision=found.revision,
        licence=found.licence,
        folder=folder,
        model=prompted,
        texts=TextEncoder(tokenizer_json, pad_id=pad_id, source=str(folder / "tokenizer.json")),
        tokenizer_json=tokenizer_json,
        pad_id=pad_id,
        pooling=_pooling(folder),
        max_length=_max_length(folder, prompted.max_positions),
        fingerprint=weights_fingerprint(prompted),
        mask=mask,
    )


def model_type(source: str, folder: Path) -> str:
    """Return what a folder's configuration calls the model. Raises UnsupportedModelError."""
    try:
        return str(AutoConfig.from_pretrained(folder).model_type)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source} has no config.json that transformers understands; use a model of type {supported()}."
        ) from error


def supported() -> str:
    """Return the model types that can carry a prompt, as words in a sentence."""
    return ", ".join(sorted({*ARCHITECTURES, *CAUSAL_ARCHITECTURES, *SEQ2SEQ_ARCHITECTURES}))


def weights_fingerprint(model: PromptedEncoder | PromptedCausal | PromptedSeq2Seq) -> str:
    """Return the SHA-256 over the model's weights, whatever files they came from.

    The pooler is left out: no readout uses it, and checkpoints without one get a random one.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        if name.startswith("pooler."):
            continue
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _mask(folder: Path) -> Mask | None:
    """Return the mask of a checkpoint that was saved with a masked-LM head."""
    config = AutoConfig.from_pretrained(folder)
    named = [name.endswith("ForMaskedLM") for name in config.architectures or ()]
    if config.model_type not in TRANSFORMS or not any(named):
        return None
    found = read_mask(folder)
    return None if found is None else Mask(*found)


def _pooling(folder: Path) -> str:
    """Read how a sentence-transformers model pools; mean pooling for a plain encoder."""
    modules = read_json(folder / "modules.json") or []
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    extra = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if extra:
        raise UnsupportedModelError(
            f"{folder} has a {extra.pop()} module behind its pooling, which is not supported; use a model without it."
        )
    path = next((m.get("path", "") for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "")
    config = read_json(folder / path / "config.json") if path else {}
    modes = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    found = [name for mode, name in modes.items() if config.get(f"pooling_mode_{mode}")]
    others = [key for key, on in config.items() if key.startswith("pooling_mode") and on is True]
    if len(found) == len(others) == 1 or (not found and not others):
        return found[0] if found else "mean"
    raise UnsupportedModelError(f"{folder} pools by {', '.join(others)}; only mean, cls or max alone is supported.")


def _max_length(folder: Path, positions: int) -> int:
    settings: dict[str, Any] = read_json(folder / "sentence_bert_config.json") or {}
    return min(int(settings.get("max_seq_length") or positions), positions)
