"""Decoder-only and encoder-decoder models as backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PretrainedConfig

from mpt_edge.formats.manifest import Family
from mpt_edge.training.backbones.backbone import Backbone, common_fields, vocabulary_size
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.locating import ModelSource
from mpt_edge.training.backbones.prompted import PromptedModel
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge.training.backbones.vocabulary import check_start, end_ids
from mpt_edge.training.backbones.weights import read_model


@dataclass(frozen=True, kw_only=True)
class CausalBackbone(Backbone):
    """A frozen decoder-only model; see `Backbone`."""

    family: ClassVar[Family] = Family.CAUSAL
    model: PromptedCausal
    eos_ids: tuple[int, ...]
    """Tokens that end a text."""

    def front(self, ids: list[int]) -> list[int]:
        """Return the tokens that a generated text follows: the input."""
        return list(ids)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqBackbone(Backbone):
    """A frozen encoder-decoder model; see `Backbone`."""

    family: ClassVar[Family] = Family.SEQ2SEQ
    model: PromptedSeq2Seq
    eos_ids: tuple[int, ...]
    """Tokens that end a text."""

    def front(self, ids: list[int]) -> list[int]:  # noqa: ARG002
        """Return the tokens that a generated text follows: the decoder's first token."""
        return [self.model.start_id]


#: A generative backbone: a union, so that a type check for one family leaves the other.
GenerativeBackbone = CausalBackbone | Seq2SeqBackbone


def read_causal(source: ModelSource) -> CausalBackbone:
    """Load a decoder-only model.

    Raises:
        UnsupportedModelError: its embedding table lacks tokens that it needs.
        CorruptFileError: files are missing or damaged.
    """
    model = PromptedCausal(read_model(AutoModelForCausalLM, source.folder, "eager"))
    return CausalBackbone(model=model, **_fields(source, model))


def read_seq2seq(source: ModelSource) -> Seq2SeqBackbone:
    """Load an encoder-decoder model; raises as `read_causal`."""
    model = PromptedSeq2Seq(read_model(AutoModelForSeq2SeqLM, source.folder, "eager"))
    check_start(model.start_id, vocabulary_size(model), source.folder)
    return Seq2SeqBackbone(model=model, **_fields(source, model))


def _fields(source: ModelSource, model: PromptedModel) -> dict[str, Any]:
    """Return all fields of a generative backbone except for the model."""
    eos_ids = _eos_ids(model.model.generation_config, model.model.config)
    return common_fields(source, model) | {
        "eos_ids": end_ids(eos_ids, vocabulary_size(model), source.folder),
        "max_length": model.max_positions,
    }


def _eos_ids(generation: GenerationConfig | None, config: PretrainedConfig) -> Sequence[int]:
    """Return the end tokens; a configuration has an id, a list of ids or none."""
    stated: Any = getattr(generation, "eos_token_id", None)
    if stated is None:
        stated = getattr(config, "eos_token_id", None)
    return tuple(stated) if isinstance(stated, list | tuple) else () if stated is None else (int(stated),)
