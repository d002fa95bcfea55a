"""Attention as one node of the graph, for models that write.

A step of such a model is many small products, and running a node costs as much as most of them. ONNX's
``Attention`` (operator set 23) takes the place of six nodes a layer, and reads grouped heads where they
lie, without a copy for each query head.
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

#: The name under which transformers finds `_attention`.
_NAME = "mpt_edge_onnx"


@contextlib.contextmanager
def one_node_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend by one node while it is exported.

    Models that cap their scores keep their own attention: the operator was corrected in that, so what it
    does to masked rows depends on the runtime's version.
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
    """Attend as transformers' functions do: heads before rows in, rows before heads out.

    A T5's mask is part of its position bias; see `mpt_edge.training.backbones.seq2seq`.
    """
    assert attention_mask is None or position_bias is None  # the node adds one of them
    added = attention_mask if position_bias is None else position_bias
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    # ONNX Runtime reads the keys for a single query up to twice as fast where it need not scale their products.
    scaled = query if factor == 1.0 else query * factor
    found = torch.onnx.ops.attention(scaled, key, value, added, scale=1.0)[0]
    return found.transpose(1, 2), None


def _neo_attention(kind: int, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor) -> tuple[Tensor, None]:
    """Attend as GPT-Neo does, without scaling, by the mask of the layer's kind."""
    return torch.onnx.ops.attention(query, key, value, attention_mask[:, kind : kind + 1], scale=1.0)[0], None


AttentionInterface.register(_NAME, _attention)
