"""Decoder-only and encoder-decoder models as backbones: which tokens end a text, and what it stands behind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PretrainedConfig

from mpt_edge.training.backbones.backbone import Backbone, common_facts, vocabulary_rows
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge.training.backbones.sources import Source, read_model
from mpt_edge.training.backbones.vocabulary import check_start, end_ids


@dataclass(frozen=True, kw_only=True)
class _GenerativeBackbone(Backbone):
    """What both kinds of models that write carry; see `Backbone`.

    Attributes:
        model: the prompted model, frozen.
        eos_ids: tokens that end a text.
        max_length: most rows of prompt and text that the model can tell apart.
    """

    model: PromptedCausal | PromptedSeq2Seq
    eos_ids: tuple[int, ...]

    @abstractmethod
    def front(self, ids: list[int]) -> list[int]:
        """Return the tokens that a text written for the input ``ids`` stands behind."""


@dataclass(frozen=True, kw_only=True)
class CausalBackbone(_GenerativeBackbone):
    """A frozen decoder-only model; ``eos_ids`` end a text, and ``max_length`` counts rows of prompt and text."""

    model: PromptedCausal

    @property
    def family(self) -> str:
        """``"causal"``."""
        return "causal"

    def front(self, ids: list[int]) -> list[int]:
        """Return the input, which the new text continues."""
        return list(ids)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqBackbone(_GenerativeBackbone):
    """A frozen encoder-decoder model; ``eos_ids`` end a text, and ``max_length`` counts rows of prompt and text."""

    model: PromptedSeq2Seq

    @property
    def family(self) -> str:
        """``"seq2seq"``."""
        return "seq2seq"

    def front(self, ids: list[int]) -> list[int]:  # noqa: ARG002
        """Return the decoder's first token: the input is the encoder's."""
        return [self.model.start_id]


#: A backbone that writes, a union so that a check for one kind leaves the other.
GenerativeBackbone = CausalBackbone | Seq2SeqBackbone


def read_causal(source: Source) -> CausalBackbone:
    """Load a decoder-only model from where it was found.

    Raises:
        UnsupportedModelError: it lacks rows for tokens that it is to read or write.
        CorruptFileError: files are missing or damaged.
    """
    model = read_model(AutoModelForCausalLM, source.folder, "eager")
    prompted = PromptedCausal(model)
    return CausalBackbone(model=prompted, **_facts(source, prompted))


def read_seq2seq(source: Source) -> Seq2SeqBackbone:
    """Load an encoder-decoder model from where it was found; raises what `read_causal` does."""
    model = read_model(AutoModelForSeq2SeqLM, source.folder, "eager")
    prompted = PromptedSeq2Seq(model)
    check_start(prompted.start_id, vocabulary_rows(prompted), source.folder)
    return Seq2SeqBackbone(model=prompted, **_facts(source, prompted))


def _facts(source: Source, prompted: PromptedCausal | PromptedSeq2Seq) -> dict[str, Any]:
    """Return all fields of a backbone that writes, but for the model."""
    eos_ids = _eos_ids(prompted.model.generation_config, prompted.model.config)
    return common_facts(source, prompted) | {
        "eos_ids": end_ids(eos_ids, vocabulary_rows(prompted), source.folder),
        "max_length": prompted.max_positions,
    }


def _eos_ids(generation: GenerationConfig | None, config: PretrainedConfig) -> Sequence[int]:
    """Return the tokens that end a text, which models name once, several times or not at all."""
    found: Any = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config, "eos_token_id", None)
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)
