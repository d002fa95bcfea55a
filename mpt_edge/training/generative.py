"""Backbones that generate text: finding one, and everything that must travel with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PretrainedConfig

from mpt_edge.text import TextEncoder
from mpt_edge.training.backbones import Backbone, load_backbone, model_type, weights_fingerprint
from mpt_edge.training.causal import CAUSAL_ARCHITECTURES, PromptedCausal
from mpt_edge.training.seq2seq import SEQ2SEQ_ARCHITECTURES, PromptedSeq2Seq
from mpt_edge.training.sources import locate_model, read_model, read_tokenizer


@dataclass(frozen=True)
class GenerativeBackbone:
    """A frozen decoder-only or encoder-decoder model with its tokenizer and the facts a bundle records.

    Attributes:
        name: last part of the id.
        id: hub id, or the folder's name.
        revision: hub commit, or empty.
        licence: as the model card states it, or empty.
        folder: where its files lie on this machine.
        model: the prompted model, frozen.
        texts: its tokenizer.
        tokenizer_json: the bytes of ``tokenizer.json``.
        pad_id: id of the padding token.
        eos_ids: tokens that end a text.
        max_length: most rows of prompt and text that the model can tell apart.
        fingerprint: SHA-256 over the names, shapes and float32 values of all weights.
    """

    name: str
    id: str
    revision: str
    licence: str
    folder: Path
    model: PromptedCausal | PromptedSeq2Seq
    texts: TextEncoder
    tokenizer_json: bytes
    pad_id: int
    eos_ids: tuple[int, ...]
    max_length: int
    fingerprint: str

    @property
    def family(self) -> str:
        """``"causal"`` or ``"seq2seq"``."""
        return "causal" if isinstance(self.model, PromptedCausal) else "seq2seq"

    def front(self, ids: list[int]) -> list[int]:
        """Return the tokens that a written text stands behind: the input, or the decoder's first token."""
        return list(ids) if isinstance(self.model, PromptedCausal) else [self.model.start_id]


def open_backbone(source: str, revision: str | None = None) -> Backbone | GenerativeBackbone:
    """Load a backbone of any family from a short name, a local folder or a hub id.

    Raises:
        InputError: nothing is found under that name.
        UnsupportedModelError: its architecture cannot be used.
        CorruptFileError: files are missing or damaged.
    """
    found = locate_model(source, revision)
    folder, kind = found.folder, model_type(source, found.folder)
    if kind not in CAUSAL_ARCHITECTURES and kind not in SEQ2SEQ_ARCHITECTURES:
        return load_backbone(source, revision)
    family = AutoModelForCausalLM if kind in CAUSAL_ARCHITECTURES else AutoModelForSeq2SeqLM
    model = read_model(family, folder, "eager")
    prompted = PromptedCausal(model) if kind in CAUSAL_ARCHITECTURES else PromptedSeq2Seq(model)
    tokenizer_json, pad_id = read_tokenizer(folder)
    return GenerativeBackbone(
        name=found.id.rsplit("/", 1)[-1],
        id=found.id,
        revision=found.revision,
        licence=found.licence,
        folder=folder,
        model=prompted,
        texts=TextEncoder(tokenizer_json, pad_id=pad_id, source=str(folder / "tokenizer.json")),
        tokenizer_json=tokenizer_json,
        pad_id=pad_id,
        eos_ids=_eos_ids(model.generation_config, model.config),
        max_length=prompted.max_positions,
        fingerprint=weights_fingerprint(prompted),
    )


def _eos_ids(generation: GenerationConfig | None, config: PretrainedConfig) -> tuple[int, ...]:
    """Return the tokens that end a text, which models name once, several times or not at all."""
    found: Any = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(config, "eos_token_id", None)
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (int(found),)
