"""The graphs of a T5: an encoder that reads text under a prompt, and a decoder that writes.

Both hold the embedding, which is a third of a small T5; it lies once on disk, in a file that both
graphs refer to and that ONNX Runtime maps into memory once.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from torch import Tensor, nn

from mpt_edge.formats.prompts import Entry
from mpt_edge.inference.runtime.graph_names import CROSS, PAST, PAST_LENGTH, PRESENT, layer_names
from mpt_edge.training.backbones.attention import KeyValue
from mpt_edge.training.backbones.seq2seq import PromptedSeq2Seq
from mpt_edge_export.attention import one_node_attention
from mpt_edge_export.graph import make_graph, prompt_axes, prompt_shape
from mpt_edge_export.in_place import InPlaceCache
from mpt_edge_export.weights import save_graphs

#: File beside the graphs that holds their weights.
WEIGHTS = "model.onnx_data"


class EncoderGraph(nn.Module):
    """The encoder with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, model: PromptedSeq2Seq) -> None:
        """Wrap a model; weights are shared."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return each encoder layer's new keys and values, then what each decoder layer sees of the new rows."""
        hidden, present = self.model.encode(input_ids, attention_mask, prompt, _pairs(past))
        return (*_flat(present), *_flat(self.model.cross(hidden)))


class DecoderGraph(nn.Module):
    """The decoder with the flat inputs and outputs of the ONNX graph."""

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
        """Return the wanted logits, then each layer's keys and values of all tokens."""
        half = 2 * self.model.decoder_layers
        own, cross = InPlaceCache(_pairs(past[:half]), past_length), _pairs(past[half:])
        hidden, present = self.model.decode(input_ids, attention_mask, encoder_attention_mask, cross, own)
        wanted = torch.gather(hidden, 1, logits_index[..., None].expand(-1, -1, hidden.shape[-1]))
        return (self.model.logits(wanted), *_flat(present))


def export_seq2seq_graphs(model: PromptedSeq2Seq, heads: int, head_size: int, entry: Entry, folder: Path) -> None:
    """Write ``encoder_model.onnx``, ``decoder_model.onnx`` and the weights they share.

    Args:
        model: the model, frozen and in evaluation mode.
        heads: attention heads of a layer.
        head_size: channels of a head.
        entry: where prompts enter, one of `mpt_edge.formats.prompts.Entry`.
        folder: where the files go.
    """
    with one_node_attention(model.model):
        graphs = {
            folder / "encoder_model.onnx": _encoder(model, heads, head_size, entry),
            folder / "decoder_model.onnx": _decoder(model, heads, head_size),
        }
    save_graphs(graphs, folder / WEIGHTS)


def _encoder(model: PromptedSeq2Seq, heads: int, head_size: int, entry: Entry) -> onnx_ir.Model:
    tokens, prompt_rows, cached = 5, 3, 4
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + prompt_rows + tokens, dtype=torch.long)
    prompt = torch.zeros(2, *prompt_shape(model, entry, prompt_rows))
    layers = model.encoder_layers
    past = tuple(torch.zeros(1, heads, cached, head_size) for _ in range(2 * layers))
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    row = ("batch", None, "rows", None)
    return make_graph(
        EncoderGraph(model),
        (ids, mask, prompt, *past),
        dynamic_shapes=(axes, axes, axes, ({2: auto},) * len(past)),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            "prompt": prompt_axes(entry),
            **dict.fromkeys(layer_names(layers, PAST), ("cache_batch", None, "cached", None)),
        },
        outputs={
            **dict.fromkeys(layer_names(layers, PRESENT), row),
            **dict.fromkeys(layer_names(model.decoder_layers, CROSS), row),
        },
    )


def _decoder(model: PromptedSeq2Seq, heads: int, head_size: int) -> onnx_ir.Model:
    tokens, capacity, rows, wanted = 5, 16, 7, 2
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, capacity, dtype=torch.long)
    layers = model.decoder_layers
    own = tuple(torch.zeros(2, heads, capacity, head_size) for _ in range(2 * layers))
    cross = tuple(torch.zeros(2, heads, rows, head_size) for _ in range(2 * layers))
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    room = ("batch", None, "capacity", None)
    encoder_mask, index = torch.ones(2, rows, dtype=torch.long), torch.zeros(2, wanted, dtype=torch.long)
    return make_graph(
        DecoderGraph(model),
        (ids, mask, encoder_mask, index, torch.zeros(1, dtype=torch.long), *own, *cross),
        dynamic_shapes=(axes, axes, axes, axes, None, ({0: auto, 2: auto},) * len((*own, *cross))),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "capacity"),
            "encoder_attention_mask": ("batch", "encoder_rows"),
            "logits_index": ("batch", "wanted"),
            PAST_LENGTH: (None,),
            **dict.fromkeys(layer_names(layers, PAST, "decoder"), room),
            **dict.fromkeys(layer_names(layers, PAST, "encoder"), ("batch", None, "encoder_rows", None)),
        },
        outputs={
            "logits": ("batch", "wanted", None),
            **dict.fromkeys(layer_names(layers, PRESENT, "decoder"), room),
        },
    )


def _pairs(flat: tuple[Tensor, ...]) -> list[KeyValue]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _flat(pairs: list[KeyValue]) -> list[Tensor]:
    return [tensor for pair in pairs for tensor in pair]
