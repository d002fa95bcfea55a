"""Tiny decoder-only models, and transformers' own logits of a prompt and a text."""

from __future__ import annotations

from copy import deepcopy

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support.prompted import shake

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,  # the minimum for layers of two types: exporting one takes a second
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "head_dim": 8,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gemma": GemmaConfig(**SIZES, **SPECIAL),
    "gemma2": Gemma2Config(**SIZES, **SPECIAL, query_pre_attn_scalar=8, sliding_window=7),
    "gemma3_text": Gemma3TextConfig(
        **SIZES, **SPECIAL, query_pre_attn_scalar=8, sliding_window=7, sliding_window_pattern=2
    ),
    "gpt2": GPT2Config(vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **SPECIAL),
    "gpt_neo": GPTNeoConfig(
        vocab_size=96,
        max_position_embeddings=64,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        intermediate_size=48,
        window_size=9,
        initializer_range=0.3,
        **SPECIAL,
    ),
    "llama": LlamaConfig(**SIZES, **SPECIAL),
    "mistral": MistralConfig(**SIZES, **SPECIAL, sliding_window=7),
    "qwen2": Qwen2Config(
        **{k: v for k, v in SIZES.items() if k != "head_dim"},
        **SPECIAL,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**SIZES, **SPECIAL),
    "smollm3": SmolLM3Config(
        **{k: v for k, v in SIZES.items() if k != "head_dim"}, **SPECIAL, no_rope_layer_interval=2
    ),
}
LENGTH = 5


def build(kind: str) -> tuple[PreTrainedModel, PromptedCausal]:
    """Return an unchanged model and a prompted model with the same random weights."""
    return make(kind), PromptedCausal(make(kind))


def make(kind: str) -> PreTrainedModel:
    """Return a model with the random weights of its kind."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[kind])).eval()
    shake(model)
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids and mask of two texts, the second padded, and a prompt."""
    torch.manual_seed(1)
    ids = torch.randint(3, 61, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return ids, mask, torch.randn(LENGTH, 32)


@torch.no_grad()
def reference(model: PreTrainedModel, ids: torch.Tensor, prompt: torch.Tensor, *, from_zero: bool) -> torch.Tensor:
    """Return the logits of one text after a prompt, fed as one sequence of embeddings, as PEFT does."""
    words = model.get_input_embeddings()(ids[None])
    virtual = prompt[None]
    positions = torch.arange(len(prompt) + len(ids))[None]
    if from_zero:  # learned positions are for the text only
        positions = torch.cat([torch.zeros(len(prompt), dtype=torch.long), torch.arange(len(ids))])[None]
        virtual = virtual - model.base_model.wpe.weight[0]
    output = model(inputs_embeds=torch.cat([virtual, words], 1), position_ids=positions)
    return output.logits[0, len(prompt) :]
