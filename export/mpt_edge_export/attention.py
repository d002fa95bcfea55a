"""Attention as one node of the graph, for generative models.

A decoding step consists of many small products, and running a node costs as much as most of them.
ONNX's ``Attention`` (operator set 23) replaces six nodes a layer. It reads grouped heads in place,
without a copy for each query head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

#: Name of `_attention` in transformers.
_NAME = "mpt_edge_onnx"


@contextlib.contextmanager
def one_node_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model compute attention by one node while it is exported.

    Models that cap their attention scores keep their own code. ONNX corrected the operator in that
    point, so its result for masked rows depends on the version of ONNX Runtime.
    """
    if getattr(model.config, "attn_logit_softcapping", None):
        yield
        return
    neo = [module for module in model.modules() if isinstance(module, GPTNeoSelfAttention)]
    own, before = [module._attn for module in neo], model.config._attn_implementation
    for module in neo:
        module._attn = partial(_neo_attention, int(module.attention_type == "local"))
    if not neo:  # all others ask transformers for their attention
        model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        for module, attend in zip(neo, own, strict=True):
            module._attn = attend
        if not neo:
            model.set_attn_implementation(before)


def _attention(
    module: Any,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers' functions do: ``(batch, heads, rows, size)`` in, heads after rows out.

    A T5's mask is part of its position bias; see `mpt_edge.training.backbones.seq2seq`.
    """
    assert attention_mask is None or position_bias is None  # the node adds one of them
    bias = attention_mask if position_bias is None else position_bias
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    # ONNX Runtime reads the keys of a single query up to twice as fast where it need not scale the products.
    scaled = query if factor == 1.0 else query * factor
    result = torch.onnx.ops.attention(scaled, key, value, bias, scale=1.0)[0]
    return result.transpose(1, 2), None


def _neo_attention(kind: int, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor) -> tuple[Tensor, None]:
    """Compute attention as GPT-Neo does: without scaling, under the mask of the layer's kind."""
    return torch.onnx.ops.attention(query, key, value, attention_mask[:, kind : kind + 1], scale=1.0)[0], None


AttentionInterface.register(_NAME, _attention)
