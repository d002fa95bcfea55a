"""The graph of an encoder: one copy of the weights that serves three calls (docs/design.md).

Inputs: ``input_ids``, ``attention_mask`` over cached prompt, prompt and text, ``token_type_ids``
where the model reads them, ``prompt`` rows (with an axis for layers where they enter every one), and
``past_key_values.i.key`` / ``.value``. Outputs: ``last_hidden_state`` over prompt and text, and
``present.i.key`` / ``.value`` of those rows. Models with a masked-LM head also take ``logits_index``
(rows that need logits) and ``word_ids`` (for which words), and give ``logits``. An axis that
a call does not use has length zero.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mpt_edge.formats.prompts import Entry
from mpt_edge.inference.runtime.graph_names import PAST, PRESENT, layer_names
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge_export.graph import make_graph, prompt_axes, prompt_shape
from mpt_edge_export.weights import save_graph


class EncoderGraph(nn.Module):
    """`PromptedEncoder` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, encoder: PromptedEncoder, entry: Entry = Entry.FIRST_LAYER) -> None:
        """Wrap an encoder; weights are shared."""
        super().__init__()
        self.encoder, self.entry = encoder, entry

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        prompt: Tensor,
        asked: tuple[Tensor, Tensor] | None,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the last hidden state, the logits of words where those are asked for, then new keys and values."""
        pairs = list(zip(past[::2], past[1::2], strict=True))
        hidden, present = self.encoder(
            input_ids, attention_mask, token_type_ids, prompt=prompt, past=pairs, entry=self.entry
        )
        logits = () if asked is None or self.encoder.masked is None else (self.encoder.masked.at(hidden, *asked),)
        return (hidden, *logits, *(tensor for pair in present for tensor in pair))


def export_encoder_graph(encoder: PromptedEncoder, heads: int, head_size: int, entry: Entry, path: Path) -> None:
    """Export the frozen encoder to one ONNX file.

    Args:
        encoder: the model, frozen and in evaluation mode.
        heads: attention heads of a layer.
        head_size: channels of a head.
        entry: where prompts enter, one of `mpt_edge.formats.prompts.Entry`.
        path: the file to write.
    """
    layers = encoder.layer_count
    tokens, prompt_rows, cached = 5, 3, 4
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + prompt_rows + tokens, dtype=torch.long)
    types = torch.zeros_like(ids) if encoder.token_types else None
    prompt = torch.zeros(2, *prompt_shape(encoder, entry, prompt_rows))
    past = tuple(torch.zeros(1, heads, cached, head_size) for _ in range(2 * layers))
    wanted, words = torch.zeros(2, 3, dtype=torch.long), torch.ones(4, dtype=torch.long)
    masked = encoder.masked is not None
    auto = torch.export.Dim.AUTO
    text_axes = {0: auto, 1: auto}
    model = make_graph(
        EncoderGraph(encoder, entry),
        (ids, mask, types, prompt, (wanted, words) if masked else None, *past),
        dynamic_shapes=(
            text_axes,
            text_axes,
            text_axes if encoder.token_types else None,
            text_axes,
            (text_axes, {0: auto}) if masked else None,
            ({2: auto},) * len(past),
        ),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            **({"token_type_ids": ("batch", "tokens")} if encoder.token_types else {}),
            "prompt": prompt_axes(entry),
            **({"logits_index": ("batch", "wanted"), "word_ids": ("words",)} if masked else {}),
            **dict.fromkeys(layer_names(layers, PAST), ("cache_batch", None, "cached", None)),
        },
        outputs={
            "last_hidden_state": ("batch", "rows", None),
            **({"logits": ("batch", "wanted", "words")} if masked else {}),
            **dict.fromkeys(layer_names(layers, PRESENT), ("batch", None, "rows", None)),
        },
    )
    save_graph(model, path)
