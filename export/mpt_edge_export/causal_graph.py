"""The graph of a decoder-only model: prompts, texts and further tokens, from one copy of the weights.

Inputs:
    input_ids: new tokens.
    position_ids: positions of virtual tokens and new tokens.
    prompt: virtual tokens of this call.
    past_key_values.i.key, .value: caches with spare capacity.
    past_length: number of cached rows in use.
    attention_mask: 1 for visible rows, over the whole capacity.
    logits_index: rows of this call that need logits.

Outputs:
    logits: logits of those rows.
    present.i.key, .value: the caches with the new rows. Bound to the memory of the past, they are
        written in place.

An axis that a call does not use has length zero.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.inference.runtime.graph_names import PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge_export.attention import one_node_attention
from mpt_edge_export.dimensions import Dimensions
from mpt_edge_export.graph import EXAMPLE_LENGTH, example_prompt, make_graph, prompt_axes
from mpt_edge_export.in_place import InPlaceCache
from mpt_edge_export.weights import save_graph


class CausalGraph(nn.Module):
    """`PromptedCausal` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, model: PromptedCausal, position: PromptPosition) -> None:
        """Wrap a model whose prompts enter at ``position``; weights are shared."""
        super().__init__()
        self.model, self.position = model, position

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        prompt: Tensor,
        logits_index: Tensor,
        past_length: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the logits of the indexed rows, then each layer's keys and values."""
        cache = InPlaceCache(list(zip(past[::2], past[1::2], strict=True)), past_length)
        hidden, present = self.model(
            input_ids, attention_mask, position_ids, prompt=prompt, past=cache, position=self.position
        )
        # The head is the largest product of all, so only the indexed rows go through it.
        indexed = torch.gather(hidden, 1, logits_index[..., None].expand(-1, -1, hidden.shape[-1]))
        return (self.model.logits(indexed), *(tensor for pair in present for tensor in pair))


def export_causal_graph(model: PromptedCausal, size: Dimensions, position: PromptPosition, path: Path) -> None:
    """Export a frozen decoder-only model to one ONNX file.

    Args:
        model: the model, frozen and in evaluation mode.
        size: its dimensions.
        position: where prompts enter.
        path: the file to write.
    """
    with one_node_attention(model.model):
        save_graph(_graph(model, size, position), path)


def _graph(model: PromptedCausal, size: Dimensions, position: PromptPosition) -> onnx_ir.Model:
    tokens, capacity, outputs = 5, 16, 2
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, capacity, dtype=torch.long)
    positions = torch.arange(EXAMPLE_LENGTH + tokens).repeat(2, 1)
    index = torch.zeros(2, outputs, dtype=torch.long)
    past = tuple(torch.zeros(2, size.heads, capacity, size.head_size) for _ in range(2 * size.layers))
    cache = ("batch", None, "capacity", None)
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    return make_graph(
        CausalGraph(model, position),
        (ids, mask, positions, example_prompt(size, position), index, torch.zeros(1, dtype=torch.long), *past),
        dynamic_shapes=(axes, axes, axes, axes, axes, None, ({0: auto, 2: auto},) * len(past)),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "capacity"),
            "position_ids": ("batch", "rows"),
            "prompt": prompt_axes(position),
            "logits_index": ("batch", "logits_rows"),
            PAST_LENGTH: (None,),
            **dict.fromkeys(layer_names(size.layers, PAST), cache),
        },
        outputs={
            "logits": ("batch", "logits_rows", None),
            **dict.fromkeys(layer_names(size.layers, PRESENT), cache),
        },
    )
