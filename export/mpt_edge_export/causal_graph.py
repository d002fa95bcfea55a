"""The graph of a decoder-only model: prompts, texts and further tokens, from one copy of the weights.

Inputs: ``past_key_values.i.key`` / ``.value``, arrays with room for all rows, of which ``past_length`` are
taken; ``attention_mask`` over that room, ``input_ids``, ``position_ids`` over prompt and tokens, ``prompt``
rows, and ``logits_index`` (which of the rows at hand need logits). Outputs: ``logits`` behind those rows,
and ``present.i.key`` / ``.value``, the arrays with the new rows in them; bound to the same memory as the
past they are written in place. An axis that a call does not use has length zero.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from mpt_edge.formats.prompts import Entry
from mpt_edge.inference.runtime.graph_names import PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge_export.attention import one_node_attention
from mpt_edge_export.graph import make_graph, prompt_axes, prompt_shape
from mpt_edge_export.in_place import InPlaceCache
from mpt_edge_export.weights import save_graph


class CausalGraph(nn.Module):
    """`PromptedCausal` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, model: PromptedCausal, entry: Entry) -> None:
        """Wrap a model whose prompts enter at ``entry``; weights are shared."""
        super().__init__()
        self.model, self.entry = model, entry

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
        """Return the wanted logits, then each layer's keys and values."""
        cache = InPlaceCache(list(zip(past[::2], past[1::2], strict=True)), past_length)
        hidden, present = self.model(
            input_ids, attention_mask, position_ids, prompt=prompt, past=cache, entry=self.entry
        )
        # The head is the largest product of all, so only the rows that are asked for go through it.
        wanted = torch.gather(hidden, 1, logits_index[..., None].expand(-1, -1, hidden.shape[-1]))
        return (self.model.logits(wanted), *(tensor for pair in present for tensor in pair))


def export_causal_graph(model: PromptedCausal, heads: int, head_size: int, entry: Entry, path: Path) -> None:
    """Export a frozen decoder-only model to one ONNX file.

    Args:
        model: the model, frozen and in evaluation mode.
        heads: key/value heads of a layer.
        head_size: channels of a head.
        entry: where prompts enter, one of `mpt_edge.formats.prompts.Entry`.
        path: the file to write.
    """
    with one_node_attention(model.model):
        save_graph(_graph(model, heads, head_size, entry), path)


def _graph(model: PromptedCausal, heads: int, head_size: int, entry: Entry) -> onnx_ir.Model:
    tokens, prompt_rows, capacity, wanted = 5, 3, 16, 2
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, capacity, dtype=torch.long)
    positions = torch.arange(prompt_rows + tokens).repeat(2, 1)
    prompt = torch.zeros(2, *prompt_shape(model, entry, prompt_rows))
    index = torch.zeros(2, wanted, dtype=torch.long)
    past = tuple(torch.zeros(2, heads, capacity, head_size) for _ in range(2 * model.layer_count))
    room = ("batch", None, "capacity", None)
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    return make_graph(
        CausalGraph(model, entry),
        (ids, mask, positions, prompt, index, torch.zeros(1, dtype=torch.long), *past),
        dynamic_shapes=(axes, axes, axes, axes, axes, None, ({0: auto, 2: auto},) * len(past)),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "capacity"),
            "position_ids": ("batch", "rows"),
            "prompt": prompt_axes(entry),
            "logits_index": ("batch", "wanted"),
            PAST_LENGTH: (None,),
            **dict.fromkeys(layer_names(model.layer_count, PAST), room),
        },
        outputs={
            "logits": ("batch", "wanted", None),
            **dict.fromkeys(layer_names(model.layer_count, PRESENT), room),
        },
    )
