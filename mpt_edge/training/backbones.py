"""What every backbone carries, and encoders: finding one, and everything that must travel with it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PretrainedConfig

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.text import TextEncoder
from mpt_edge.training.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from mpt_edge.training.masked import TRANSFORMS, MaskedHead
from mpt_edge.training.modernbert import PromptedModernBert
from mpt_edge.training.prompted import ARCHITECTURES, ATTENTION, PromptedEncoder
from mpt_edge.training.seq2seq import SEQ2SEQ_ARCHITECTURES, PromptedSeq2Seq
from mpt_edge.training.sources import (
    Source,
    locate_model,
    quiet_transformers,
    read_json,
    read_mask,
    read_model,
    read_tokenizer,
    reason,
)
from mpt_edge.training.vocabulary import fitted_tokenizer


@dataclass(frozen=True)
class Mask:
    """The token that stands where a word is to be guessed.

    Attributes:
        id: its id.
        token: how texts write it.
    """

    id: int
    token: str


#: Rotary positions that change with the length of what is read: keys of a prompt would not stay what they are.
_LENGTHWISE = frozenset({"dynamic", "longrope"})

#: A frozen model that carries a prompt.
Prompted = PromptedEncoder | PromptedCausal | PromptedSeq2Seq


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """A frozen model with its tokenizer and the facts a bundle records.

    Attributes:
        name: short name or last part of the id.
        id: hub id, or the folder's name.
        revision: hub commit, or empty.
        licence: as the model card states it, or empty.
        folder: where its files lie on this machine.
        model: the prompted model, frozen.
        texts: its tokenizer.
        tokenizer_json: the bytes of ``tokenizer.json``, without special tokens that the model has no rows for.
        pad_id: id of the padding token.
        max_length: longest text in tokens that the bundle accepts.
        fingerprint: SHA-256 over the names, shapes and float32 values of all weights in use, without a masked-LM
            head's.
    """

    name: str
    id: str
    revision: str
    licence: str
    folder: Path
    model: Prompted
    texts: TextEncoder
    tokenizer_json: bytes
    pad_id: int
    max_length: int
    fingerprint: str

    @property
    @abstractmethod
    def family(self) -> str:
        """``"encoder"``, ``"causal"`` or ``"seq2seq"``."""


@dataclass(frozen=True, kw_only=True)
class EncoderBackbone(Backbone):
    """A frozen encoder; see `Backbone`.

    Attributes:
        model: the prompted encoder, frozen.
        pooling: ``"mean"``, ``"cls"`` or ``"max"``.
        mask: the mask of a model that has a masked-LM head, or None.
    """

    model: PromptedEncoder
    pooling: str
    mask: Mask | None = None

    @property
    def family(self) -> str:
        """``"encoder"``."""
        return "encoder"


def load_encoder(source: str, revision: str | None = None) -> EncoderBackbone:
    """Load an encoder from a short name, a local folder or a hub id; `open_backbone` loads any family.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: it is no encoder, or its architecture or pooling cannot be used.
        CorruptFileError: files are missing or damaged.
    """
    return read_encoder(locate_model(source, revision))


def read_encoder(source: Source) -> EncoderBackbone:
    """Load an encoder from where it was found. Raises UnsupportedModelError and CorruptFileError, as `load_encoder`."""
    folder, kind = source.folder, model_type(source)
    if kind in CAUSAL_ARCHITECTURES or kind in SEQ2SEQ_ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source.asked} writes text, and this needs an encoder; use one of {', '.join(sorted(ARCHITECTURES))}."
        )
    if kind not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source.asked} is a {kind!r} model, which cannot carry a prompt yet; use one of {supported()}."
        )
    mask = _mask(folder)
    family = AutoModel if mask is None else AutoModelForMaskedLM
    model = read_model(family, folder, ATTENTION)
    carrier = PromptedModernBert if kind == "modernbert" else PromptedEncoder
    prompted = carrier(model) if mask is None else carrier(model.base_model, MaskedHead(model))
    return EncoderBackbone(
        **common_facts(source, prompted),
        model=prompted,
        pooling=_pooling(folder),
        max_length=_max_length(folder, prompted.max_positions),
        mask=mask,
    )


def common_facts(source: Source, model: Prompted) -> dict[str, Any]:
    """Return what backbones of every family carry, by field of `Backbone`, but for the model and its longest text.

    Raises:
        CorruptFileError: there is no tokenizer that can be used, or the model has no layers.
        UnsupportedModelError: the tokenizer has tokens that the model has no rows for.
    """
    if not model.layers:
        raise CorruptFileError(f"{source.folder / 'config.json'} describes no layers; download the model again.")
    tokenizer_json, pad_id = read_tokenizer(source.folder)
    tokenizer_json, texts = fitted_tokenizer(tokenizer_json, pad_id, vocabulary_rows(model), source.folder)
    return {
        "name": source.name,
        "id": source.id,
        "revision": source.revision,
        "licence": source.licence,
        "folder": source.folder,
        "texts": texts,
        "tokenizer_json": tokenizer_json,
        "pad_id": pad_id,
        "fingerprint": weights_fingerprint(model),
    }


def vocabulary_rows(model: Prompted) -> int:
    """Return how many tokens a model has an embedding for."""
    return int(model.model.get_input_embeddings().weight.shape[0])


def model_type(source: Source) -> str:
    """Return what a model's configuration calls it.

    Raises:
        UnsupportedModelError: there is no configuration that transformers understands, or the model is quantised, or
            turns its rotary positions by the length of a text, or attends otherwise than its family does.
        CorruptFileError: an entry of the configuration has a value that it cannot have.
    """
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.folder)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source.asked} has no config.json that transformers understands; use a model of type {supported()}."
        ) from error
    except Exception as error:  # each entry is checked in its own way
        raise CorruptFileError(
            f"{source.folder / 'config.json'} describes no model ({reason(error)}); download the model again."
        ) from error
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError(
            f"{source.asked} is quantised, and training and export need whole weights; use the model that it was made "
            "from."
        )
    for kind in _rope_types(config):
        if kind in _LENGTHWISE:
            raise UnsupportedModelError(
                f"{source.asked} has rotary positions of type {kind!r}, which depend on a text's length, so that no "
                "prompt can be read once for all texts; use a model without rope_scaling."
            )
    _check_attention(source, config)
    return str(config.model_type)


def _check_attention(source: Source, config: PretrainedConfig) -> None:
    """Refuse variants whose rows see others than those of their family do, since masks are made here by family.

    Raises:
        UnsupportedModelError: an encoder reads as a decoder, or a decoder both ways.
    """
    if config.model_type in ARCHITECTURES and getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{source.asked} was made to read from left to right (is_decoder in its config.json), and encoders read "
            "both ways here; use the encoder that it was made from."
        )
    both_ways = getattr(config, "use_bidirectional_attention", False) or getattr(config, "is_causal", True) is False
    if config.model_type in CAUSAL_ARCHITECTURES and both_ways:
        raise UnsupportedModelError(
            f"{source.asked} reads both ways (use_bidirectional_attention or is_causal in its config.json), and "
            "decoder-only models read from left to right here; use the model that writes, which it was made from."
        )


def _rope_types(config: PretrainedConfig) -> list[str]:
    """Return the types of rotary positions, which some models have for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    settings = [found, *(value for value in found.values() if isinstance(value, dict))]
    return [str(each["rope_type"]) for each in settings if "rope_type" in each]


def supported() -> str:
    """Return the model types that can carry a prompt, as words in a sentence."""
    return ", ".join(sorted({*ARCHITECTURES, *CAUSAL_ARCHITECTURES, *SEQ2SEQ_ARCHITECTURES}))


def weights_fingerprint(model: Prompted) -> str:
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
