"""Tiny encoders, a batch for them, and transformers' own layers over a prompt and a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedModel,
    RobertaConfig,
)

from mpt_edge.training.backbones.encoder import PromptedEncoder

COMMON = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = COMMON | {"intermediate_size": 48, "max_position_embeddings": 24, "initializer_range": 0.3}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1),
    "distilbert": DistilBertConfig(
        vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=24, initializer_range=0.3
    ),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "modernbert": ModernBertConfig(
        **SIZES,
        local_attention=6,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
}
PAD = {"roberta": 1}
LENGTHS = (7, 1, 4)


def batch(kind: str, side: str = "right") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and segment ids of three texts, padded on one side."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD.get(kind, 0))
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        at = slice(0, length) if side == "right" else slice(max(LENGTHS) - length, max(LENGTHS))
        ids[row, at] = torch.randint(5, 60, (length,), generator=generator)
        types[row, at] = torch.tensor([0] * (length // 2) + [1] * (length - length // 2))
        mask[row, at] = 1
    return ids, mask, types


def segments(encoder: PromptedEncoder, types: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the segment ids as a keyword argument, for models that read them."""
    return {"token_type_ids": types} if encoder.token_types else {}


def reference(
    model: PreTrainedModel,
    ids: torch.Tensor,
    types: dict[str, torch.Tensor],
    prompt: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:
    """Run transformers' own layers over prompt and text with a mask ``(batch, queries, keys)``."""
    embedded = model.embeddings(input_ids=ids, **types)
    if hasattr(model, "embeddings_project"):
        embedded = model.embeddings_project(embedded)
    hidden = torch.cat([prompt, embedded], dim=1)
    if model.config.model_type == "modernbert":
        return run_windowed(model, hidden, visible, len(prompt[0]))
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
    stack = model.transformer if model.config.model_type == "distilbert" else model.encoder
    return stack(hidden, attention_mask=bias).last_hidden_state


def run_windowed(model: PreTrainedModel, hidden: torch.Tensor, visible: torch.Tensor, length: int) -> torch.Tensor:
    """Run ModernBERT's own layers; in the prefix layout, the whole text attends to the whole prompt."""
    positions = torch.arange(hidden.shape[1])
    near = (
        ((positions[:, None] - positions[None]).abs() <= model.config.local_attention // 2).expand_as(visible).clone()
    )
    if not visible[0, 0, length]:
        near[:, length:, :length] = True
    masks = {
        kind: torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        for kind, seen in (("full_attention", visible), ("sliding_attention", visible & near))
    }
    for layer in model.layers:
        kind = layer.attention_type
        rotations = model.rotary_emb(hidden, positions[None], kind)
        hidden = layer(hidden, attention_mask=masks[kind], position_embeddings=rotations)
    return model.final_norm(hidden)


def shake(model: nn.Module) -> None:
    """Randomize biases and norms, whose zeros and ones would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


@contextmanager
def overwritten(layers: Sequence[nn.Module], prompt: torch.Tensor) -> Iterator[None]:
    """Overwrite the first positions of the input of each layer's attention with ``prompt`` ``(l, layers, d)``.

    It is the output of the norm before the attention, in layers that have one, and otherwise the layer's input. T5's
    prompts enter before the norm.
    """

    def overwrite(number: int, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([prompt[:, number].expand(len(states), -1, -1), states[:, len(prompt) :]], dim=1)

    def hook(number: int, layer: nn.Module) -> Any:
        for name, module in layer.named_children():
            if name in {"input_layernorm", "ln_1", "attn_norm"}:
                return module.register_forward_hook(lambda _, __, output: overwrite(number, output))
        return layer.register_forward_pre_hook(lambda _, args: (overwrite(number, args[0]), *args[1:]))

    handles = [hook(number, layer) for number, layer in enumerate(layers)]
    yield
    for handle in handles:
        handle.remove()
