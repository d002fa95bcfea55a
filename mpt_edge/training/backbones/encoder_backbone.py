"""Encoders as backbones, with their pooling and mask token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.manifest import Family, MaskToken, Pooling
from mpt_edge.formats.taskfile import MIN_LENGTH
from mpt_edge.training.backbones.architectures import model_type, supported
from mpt_edge.training.backbones.backbone import Backbone, common_fields
from mpt_edge.training.backbones.causal import CAUSAL_ARCHITECTURES
from mpt_edge.training.backbones.encoder import ARCHITECTURES, ATTENTION, PromptedEncoder
from mpt_edge.training.backbones.locating import ModelSource, locate_model
from mpt_edge.training.backbones.masked_lm import TRANSFORMS, MaskedLMHead
from mpt_edge.training.backbones.modernbert import PromptedModernBert
from mpt_edge.training.backbones.seq2seq import SEQ2SEQ_ARCHITECTURES
from mpt_edge.training.backbones.tokenizer_files import read_mask
from mpt_edge.training.backbones.weights import read_model

#: Entries ``pooling_mode_*`` of sentence-transformers.
_POOLING_MODES = {"mean_tokens": Pooling.MEAN, "cls_token": Pooling.CLS, "max_tokens": Pooling.MAX}


@dataclass(frozen=True, kw_only=True)
class EncoderBackbone(Backbone):
    """A frozen encoder; see `Backbone`."""

    family: ClassVar[Family] = Family.ENCODER
    model: PromptedEncoder
    pooling: Pooling
    """How hidden states become one vector."""
    mask: MaskToken | None = None
    """Mask token of a model with a masked-LM head."""


def load_encoder(source: str, revision: str | None = None) -> EncoderBackbone:
    """Load an encoder; `mpt_edge.training.backbones.opening.open_backbone` loads any family.

    Args:
        source: short name, local folder or hub id.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: there is no model of that name.
        UnsupportedModelError: it is no encoder, or its architecture or pooling cannot be used.
        CorruptFileError: files are missing or damaged.
    """
    return read_encoder(locate_model(source, revision))


def read_encoder(source: ModelSource) -> EncoderBackbone:
    """Load an encoder from its files. Raises UnsupportedModelError and CorruptFileError, as `load_encoder`."""
    kind = "gguf" if source.file is not None else model_type(source)
    if kind == "gguf" or kind in CAUSAL_ARCHITECTURES or kind in SEQ2SEQ_ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source.asked} is a generative model, and this needs an encoder; use one of "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    if kind not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{source.asked} is a {kind!r} model, which cannot carry a prompt yet; use one of {supported()}."
        )
    mask = _mask(source)
    model = read_model(AutoModel if mask is None else AutoModelForMaskedLM, source.folder, ATTENTION)
    prompted_class = PromptedModernBert if kind == "modernbert" else PromptedEncoder
    prompted = prompted_class(model) if mask is None else prompted_class(model.base_model, MaskedLMHead(model))
    return EncoderBackbone(
        **common_fields(source, prompted),
        model=prompted,
        pooling=_pooling(source),
        max_length=_max_length(source, prompted.max_positions),
        mask=mask,
    )


def _mask(source: ModelSource) -> MaskToken | None:
    """Return the mask token of a checkpoint with a masked-LM head."""
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    has_head = any(str(name).endswith("ForMaskedLM") for name in config.architectures or ())
    return read_mask(source.folder) if config.model_type in TRANSFORMS and has_head else None


def _pooling(source: ModelSource) -> Pooling:
    """Return the pooling of a sentence-transformers model; mean pooling for a plain encoder.

    Raises:
        UnsupportedModelError: it pools in another way, or has modules after its pooling.
    """
    modules = _modules(source)
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    extra = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if extra:
        raise UnsupportedModelError(
            f"{source.folder} has a {extra.pop()} module after its pooling, which is not supported; use a model "
            "without it."
        )
    path = next((m.get("path", "") for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "")
    config = source.read_entries(f"{path}/config.json") if path else {}
    modes = [key for key, is_on in config.items() if key.startswith("pooling_mode") and is_on is True]
    known = [pooling for mode, pooling in _POOLING_MODES.items() if config.get(f"pooling_mode_{mode}")]
    if not modes and not known:
        return Pooling.MEAN
    if len(known) == len(modes) == 1:
        return known[0]
    raise UnsupportedModelError(
        f"{source.folder} pools by {', '.join(modes)}; only mean, cls or max alone is supported."
    )


def _modules(source: ModelSource) -> list[dict[str, Any]]:
    """Return the modules of a sentence-transformers model. Raises CorruptFileError for a malformed list."""
    modules = source.read_json("modules.json") or []
    if not isinstance(modules, list) or not all(map(_is_module, modules)):
        raise CorruptFileError(
            f"{source.folder / 'modules.json'} is no list of modules in its folder; download the model again."
        )
    return modules


def _is_module(entries: object) -> bool:
    if not isinstance(entries, dict):
        return False
    kind, path = entries.get("type", ""), entries.get("path", "")
    return isinstance(kind, str) and isinstance(path, str) and path in ("", PurePath(path).name)


def _max_length(source: ModelSource, positions: int) -> int:
    stated = source.read_entries("sentence_bert_config.json").get("max_seq_length") or positions
    if type(stated) is not int or stated < MIN_LENGTH:
        raise CorruptFileError(
            f"max_seq_length in {source.folder / 'sentence_bert_config.json'} is no number of tokens; download the "
            "model again."
        )
    return min(stated, positions)
