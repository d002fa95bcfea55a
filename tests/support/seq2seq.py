"""Tiny T5 models, and transformers' own logits of a prompt and a text."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedModel, T5Config, T5ForConditionalGeneration

from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from tests.support.prompted import shake

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "initializer_factor": 1.15,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
KINDS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "t5": (T5ForConditionalGeneration, T5Config(**SIZES | {"initializer_factor": 1.5})),
    "flan-t5": (
        T5ForConditionalGeneration,
        T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**SIZES, tie_word_embeddings=False)),
}
LENGTH = 5


def build(kind: str) -> tuple[PreTrainedModel, PromptedSeq2Seq]:
    """Return an unchanged model and a prompted model with the same random weights, in float64.

    Rounding in float32 would hide a small mistake.
    """
    return make(kind).double(), PromptedSeq2Seq(make(kind).double())


@torch.no_grad()
def make(kind: str) -> PreTrainedModel:
    """Return a model with the random weights of its kind."""
    torch.manual_seed(1)
    cls, config = KINDS[kind]
    model = cls(deepcopy(config)).eval()
    shake(model)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:  # large values make wrong positions visible
            parameter.normal_(0, 1)
    # For logits as large as those of trained models.
    model.decoder.final_layer_norm.weight.mul_(0.5 if config.tie_word_embeddings else 0.14)
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids and mask of two texts and of two outputs, the second ones padded, and a prompt."""
    torch.manual_seed(1)
    ids, out = torch.randint(3, 61, (2, 12)), torch.randint(3, 61, (2, 6))
    out[:, 0] = 0
    mask, out_mask = torch.ones_like(ids), torch.ones_like(out)
    mask[1, 8:], out_mask[1, 4:] = 0, 0
    return ids, mask, out, out_mask, 3 * torch.randn(LENGTH, 32).double()


@torch.no_grad()
def states(model: PreTrainedModel, text: torch.Tensor, prompt: torch.Tensor, *, prefix: bool) -> torch.Tensor:
    """Return the unchanged encoder's states of a prompt and one text."""
    hidden = torch.cat([prompt, model.get_input_embeddings()(text)])[None]
    mask = torch.zeros(1, 1, hidden.shape[1], hidden.shape[1], dtype=hidden.dtype)
    if prefix:
        mask[..., : len(prompt), len(prompt) :] = -1e9
    stack = model.get_encoder()
    bias = None
    for block in stack.block:
        hidden, bias, _ = block(hidden, attention_mask=mask, position_bias=bias)
    return stack.final_layer_norm(hidden)


@torch.no_grad()
def reference(
    model: PreTrainedModel, text: torch.Tensor, out: torch.Tensor, prompt: torch.Tensor, *, prefix: bool
) -> torch.Tensor:
    """Return the logits of an output, given a prompt and one text."""
    if not prefix:  # as PEFT feeds it
        embedded = torch.cat([prompt, model.get_input_embeddings()(text)])[None]
        return model(inputs_embeds=embedded, decoder_input_ids=out[None]).logits[0]
    hidden = states(model, text, prompt, prefix=True)
    return model(encoder_outputs=(hidden,), decoder_input_ids=out[None]).logits[0]
