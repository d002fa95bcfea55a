"""The graphs of a T5: an encoder that reads text under a prompt, and a decoder that generates.

Both hold the embedding, which is a third of a small T5. It is stored once on disk, in a file that
both graphs refer to and that ONNX Runtime maps into memory once.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.inference.runtime.graph_names import CROSS, PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge_export.attention import one_node_attention
from mpt_edge_export.dimensions import Dimensions
from mpt_edge_export.graph import EXAMPLE_LENGTH, example_prompt, make_graph, prompt_axes
from mpt_edge_export.in_place import InPlaceCache
from mpt_edge_export.weights import save_graphs

#: File with the weights of both graphs, beside them.
WEIGHTS = "model.onnx_data"


class Seq2SeqEncoderGraph(nn.Module):
    """The encoder with the flat inputs and outputs of its ONNX graph."""

    def __init__(self, model: PromptedSeq2Seq) -> None:
        """Wrap a model; weights are shared."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return each encoder layer's new keys and values, then those that each decoder layer reads of the new rows."""
        hidden, present = self.model.encode(input_ids, attention_mask, prompt, _pairs(past))
        return (*_flat(present), *_flat(self.model.cross(hidden)))


class Seq2SeqDecoderGraph(nn.Module):
    """The decoder with the flat inputs and outputs of its ONNX graph."""

    def __init__(self, model: PromptedSeq2Seq) -> None:
        """Wrap a model; weights are shared."""
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        encoder_attention_mask: Tensor,
        logits_index: Tensor,
        past_length: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the logits of the indexed rows, then each layer's keys and values of all tokens."""
        half = 2 * self.model.decoder_layers
        own, cross = InPlaceCache(_pairs(past[:half]), past_length), _pairs(past[half:])
        hidden, present = self.model.decode(input_ids, attention_mask, encoder_attention_mask, cross, own)
        indexed = torch.gather(hidden, 1, logits_index[..., None].expand(-1, -1, hidden.shape[-1]))
        return (self.model.logits(indexed), *_flat(present))


def export_seq2seq_graphs(model: PromptedSeq2Seq, size: Dimensions, position: PromptPosition, folder: Path) -> None:
    """Write ``encoder_model.onnx``, ``decoder_model.onnx`` and their common weights.

    Args:
        model: the model, frozen and in evaluation mode.
        size: its dimensions.
        position: where prompts enter.
        folder: an existing folder for the files.
    """
    with one_node_attention(model.model):
        graphs = {
            folder / "encoder_model.onnx": _encoder(model, size, position),
            folder / "decoder_model.onnx": _decoder(model, size),
        }
    save_graphs(graphs, folder / WEIGHTS)


def _encoder(model: PromptedSeq2Seq, size: Dimensions, position: PromptPosition) -> onnx_ir.Model:
    tokens, cached = 5, 4
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + EXAMPLE_LENGTH + tokens, dtype=torch.long)
    past = tuple(torch.zeros(1, size.heads, cached, size.head_size) for _ in range(2 * size.layers))
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    new = ("batch", None, "rows", None)
    return make_graph(
        Seq2SeqEncoderGraph(model),
        (ids, mask, example_prompt(size, position), *past),
        dynamic_shapes=(axes, axes, axes, ({2: auto},) * len(past)),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            "prompt": prompt_axes(position),
            **dict.fromkeys(layer_names(size.layers, PAST), ("cache_batch", None, "cached", None)),
        },
        outputs={
            **dict.fromkeys(layer_names(size.layers, PRESENT), new),
            **dict.fromkeys(layer_names(model.decoder_layers, CROSS), new),
        },
    )


def _decoder(model: PromptedSeq2Seq, size: Dimensions) -> onnx_ir.Model:
    tokens, capacity, encoder_rows, outputs = 5, 16, 7, 2
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, capacity, dtype=torch.long)
    layers = model.decoder_layers
    own = tuple(torch.zeros(2, size.heads, capacity, size.head_size) for _ in range(2 * layers))
    cross = tuple(torch.zeros(2, size.heads, encoder_rows, size.head_size) for _ in range(2 * layers))
    encoder_mask, index = (torch.ones(2, n, dtype=torch.long) for n in (encoder_rows, outputs))
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    cache = ("batch", None, "capacity", None)
    return make_graph(
        Seq2SeqDecoderGraph(model),
        (ids, mask, encoder_mask, index, torch.zeros(1, dtype=torch.long), *own, *cross),
        dynamic_shapes=(axes, axes, axes, axes, None, ({0: auto, 2: auto},) * len((*own, *cross))),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "capacity"),
            "encoder_attention_mask": ("batch", "encoder_rows"),
            "logits_index": ("batch", "logits_rows"),
            PAST_LENGTH: (None,),
            **dict.fromkeys(layer_names(layers, PAST, "decoder"), cache),
            **dict.fromkeys(layer_names(layers, PAST, "encoder"), ("batch", None, "encoder_rows", None)),
        },
        outputs={
            "logits": ("batch", "logits_rows", None),
            **dict.fromkeys(layer_names(layers, PRESENT, "decoder"), cache),
        },
    )


def _pairs(flat: tuple[Tensor, ...]) -> list[KeyValue]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _flat(pairs: list[KeyValue]) -> list[Tensor]:
    return [tensor for pair in pairs for tensor in pair]
