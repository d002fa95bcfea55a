"""The graph of a decoder-only model: prompts, texts and further tokens, from one copy of the weights.

Inputs: ``input_ids``, ``attention_mask`` over cached rows, prompt and tokens, ``position_ids`` over
prompt and tokens, ``prompt`` rows, ``logits_index`` (which of the rows at hand need logits), and
``past_key_values.i.key`` / ``.value``. Outputs: ``logits`` behind those rows, and ``present.i.key`` /
``.value`` of all rows, the cached ones first. An axis that a call does not use has length zero.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from mpt_edge.training.causal import PromptedCausal
from mpt_edge_export.attention import one_node_attention
from mpt_edge_export.graph import layer_names, make_graph, prompt_axes, prompt_shape
from mpt_edge_export.weights import save_graph


class CausalGraph(nn.Module):
    """`PromptedCausal` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, model: PromptedCausal) -> None:
        """Wrap a model; weights are shared."""
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        prompt: Tensor,
        logits_index: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the wanted logits, then each layer's keys and values."""
        pairs = list(zip(past[::2], past[1::2], strict=True))
        hidden, present = self.model(input_ids, attention_mask, position_ids, prompt=prompt, past=pairs)
        # The head is the largest product of all, so only the rows that are asked for go through it.
        wanted = torch.gather(hidden, 1, logits_index[..., None].expand(-1, -1, hidden.shape[-1]))
        return (self.model.logits(wanted), *(tensor for pair in present for tensor in pair))


def export_causal_graph(model: PromptedCausal, heads: int, head_size: int, path: Path) -> None:
    """Export a frozen decoder-only model to one ONNX file.

    Args:
        model: the model, frozen and in evaluation mode; prompts enter where its ``entry`` says.
        heads: key/value heads of a layer.
        head_size: channels of a head.
        path: the file to write.
    """
    with one_node_attention(model.model):
        save_graph(_graph(model, heads, head_size), path)


def _graph(model: PromptedCausal, heads: int, head_size: int) -> onnx_ir.Model:
    names = layer_names(model.layer_count)
    tokens, prompt_rows, cached, wanted = 5, 3, 4, 2
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + prompt_rows + tokens, dtype=torch.long)
    positions = torch.arange(prompt_rows + tokens).repeat(2, 1)
    prompt = torch.zeros(2, *prompt_shape(model, model.entry, prompt_rows))
    index = torch.zeros(2, wanted, dtype=torch.long)
    past = tuple(torch.zeros(2, heads, cached, head_size) for _ in names)
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    return make_graph(
        CausalGraph(model),
        (ids, mask, positions, prompt, index, *past),
        dynamic_shapes=(axes, axes, axes, axes, axes, ({0: auto, 2: auto},) * len(names)),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            "position_ids": ("batch", "rows"),
            "prompt": prompt_axes(model.entry),
            "logits_index": ("batch", "wanted"),
            **{f"past_key_values.{name}": ("batch", None, "cached", None) for name in names},
        },
        outputs={
            "logits": ("batch", "wanted", None),
            **{f"present.{name}": ("batch", None, "keys", None) for name in names},
        },
    )
