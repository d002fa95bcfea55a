"""Encoders as backbones: how they pool, and the mask of those with a masked-LM head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.manifest import Mask
from mpt_edge.training.backbones.architectures import model_type, supported
from mpt_edge.training.backbones.backbone import Backbone, common_facts
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder import ARCHITECTURES, ATTENTION, PromptedEncoder
from mpt_edge.training.backbones.masked_lm import TRANSFORMS, MaskedLMHead
from mpt_edge.training.backbones.modernbert import PromptedModernBert
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from mpt_edge.training.backbones.sources import Source, locate_model, read_json, read_mask, read_model


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
    prompted = carrier(model) if mask is None else carrier(model.base_model, MaskedLMHead(model))
    return EncoderBackbone(
        **common_facts(source, prompted),
        model=prompted,
        pooling=_pooling(folder),
        max_length=_max_length(folder, prompted.max_positions),
        mask=mask,
    )


def _mask(folder: Path) -> Mask | None:
    """Return the mask of a checkpoint that was saved with a masked-LM head."""
    config = AutoConfig.from_pretrained(folder)
    named = [name.endswith("ForMaskedLM") for name in config.architectures or ()]
    if config.model_type not in TRANSFORMS or not any(named):
        return None
    return read_mask(folder)


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
