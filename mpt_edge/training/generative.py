"""Backbones that generate text: finding one, and everything that must travel with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PretrainedConfig

from mpt_edge.training.backbones import (
    Backbone,
    EncoderBackbone,
    common_facts,
    model_type,
    read_encoder,
    vocabulary_rows,
)
from mpt_edge.training.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from mpt_edge.training.seq2seq import SEQ2SEQ_ARCHITECTURES, PromptedSeq2Seq
from mpt_edge.training.sources import locate_model, read_model
from mpt_edge.training.vocabulary import check_start, end_ids


@dataclass(frozen=True, kw_only=True)
class GenerativeBackbone(Backbone):
    """A frozen decoder-only or encoder-decoder model; see `Backbone`.

    Attributes:
        model: the prompted model, frozen.
        eos_ids: tokens that end a text.
        max_length: most rows of prompt and text that the model can tell apart.
    """

    model: PromptedCausal | PromptedSeq2Seq
    eos_ids: tuple[int, ...]

    @property
    def family(self) -> str:
        """``"causal"`` or ``"seq2seq"``."""
        return "causal" if isinstance(self.model, PromptedCausal) else "seq2seq"

    def front(self, ids: list[int]) -> list[int]:
        """Return the tokens that a written text stands behind: the input, or the decoder's first token."""
        return list(ids) if isinstance(self.model, PromptedCausal) else [self.model.start_id]


#: A backbone of either kind: a union, so that a check for one kind leaves the other.
AnyBackbone = EncoderBackbone | GenerativeBackbone


def open_backbone(source: str, revision: str | None = None) -> AnyBackbone:
    """Load a backbone of any family from a short name, a local folder or a hub id.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: its architecture cannot be used, or it lacks rows for tokens that it is to read or write.
        CorruptFileError: files are missing or damaged.
    """
    found = locate_model(source, revision)
    kind = model_type(found)
    if kind not in CAUSAL_ARCHITECTURES and kind not in SEQ2SEQ_ARCHITECTURES:
        return read_encoder(found)
    family = AutoModelForCausalLM if kind in CAUSAL_ARCHITECTURES else AutoModelForSeq2SeqLM
    model = read_model(family, found.folder, "eager")
    prompted = PromptedCausal(model) if kind in CAUSAL_ARCHITECTURES else PromptedSeq2Seq(model)
    rows = vocabulary_rows(prompted)
    if isinstance(prompted, PromptedSeq2Seq):
        check_start(prompted.start_id, rows, found.folder)
    return GenerativeBackbone(
        **common_facts(found, prompted),
        model=prompted,
        eos_ids=end_ids(_eos_ids(model.generation_config, model.config), rows, found.folder),
        max_length=prompted.max_positions,
    )


def _eos_ids(generation: GenerationConfig | None, config: PretrainedConfig) -> tuple[int, ...]:
    """Return the tokens that end a text, which models name once, several times or not at all."""
    found: Any = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config, "eos_token_id", None)
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)
