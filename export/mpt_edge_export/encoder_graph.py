"""The graph of an encoder: one copy of the weights that serves three calls (docs/design.md).

Inputs:
    input_ids, token_type_ids: tokens, and their segments where the model reads them.
    attention_mask: 1 for visible rows, over cached prompt, prompt and text.
    prompt: virtual tokens of this call, with an axis for layers where they enter all layers.
    past_key_values.i.key, .value: keys and values of a cached prompt.
    logits_index, word_ids: rows that need logits, and the words to score (masked-LM heads only).

Outputs:
    last_hidden_state: hidden states of prompt and text; of the text alone where prompts enter all layers.
    logits: logits of those rows and words (masked-LM heads only).
    present.i.key, .value: keys and values of the rows of this call.

An axis that a call does not use has length zero.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.inference.runtime.graph_names import PAST, PRESENT, layer_names
from mpt_edge.training.backbones.encoder import PromptedEncoder
from mpt_edge_export.dimensions import Dimensions
from mpt_edge_export.graph import EXAMPLE_LENGTH, example_prompt, make_graph, prompt_axes
from mpt_edge_export.merged_products import merge_products
from mpt_edge_export.text_rows import cut_prompt_states
from mpt_edge_export.weights import save_graph


class EncoderGraph(nn.Module):
    """`PromptedEncoder` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, encoder: PromptedEncoder, position: PromptPosition) -> None:
        """Wrap an encoder whose prompts enter at ``position``; weights are shared."""
        super().__init__()
        self.encoder, self.position = encoder, position

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        prompt: Tensor,
        cloze: tuple[Tensor, Tensor] | None,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the last hidden state, the logits of ``cloze`` (rows and words), then new keys and values."""
        pairs = list(zip(past[::2], past[1::2], strict=True))
        hidden, present = self.encoder(
            input_ids, attention_mask, token_type_ids, prompt=prompt, past=pairs, position=self.position
        )
        if self.position is PromptPosition.ALL_LAYERS:  # such a prompt is read without text
            hidden = hidden[:, prompt.shape[1] :]
        logits = () if cloze is None or self.encoder.masked is None else (self.encoder.masked.at(hidden, *cloze),)
        return (hidden, *logits, *(tensor for pair in present for tensor in pair))


def export_encoder_graph(encoder: PromptedEncoder, size: Dimensions, position: PromptPosition, path: Path) -> None:
    """Export a frozen encoder to one ONNX file.

    Args:
        encoder: the model, frozen and in evaluation mode.
        size: its dimensions.
        position: where prompts enter.
        path: the file to write.
    """
    tokens, cached = 5, 4
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + EXAMPLE_LENGTH + tokens, dtype=torch.long)
    types = torch.zeros_like(ids) if encoder.token_types else None
    past = tuple(torch.zeros(1, size.heads, cached, size.head_size) for _ in range(2 * size.layers))
    masked = encoder.masked is not None
    cloze = (torch.zeros(2, 3, dtype=torch.long), torch.ones(4, dtype=torch.long)) if masked else None
    auto = torch.export.Dim.AUTO
    axes = {0: auto, 1: auto}
    model = make_graph(
        EncoderGraph(encoder, position),
        (ids, mask, types, example_prompt(size, position), cloze, *past),
        dynamic_shapes=(
            axes,
            axes,
            axes if encoder.token_types else None,
            axes,
            (axes, {0: auto}) if masked else None,
            ({2: auto},) * len(past),
        ),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            **({"token_type_ids": ("batch", "tokens")} if encoder.token_types else {}),
            "prompt": prompt_axes(position),
            **({"logits_index": ("batch", "logits_rows"), "word_ids": ("words",)} if masked else {}),
            **dict.fromkeys(layer_names(size.layers, PAST), ("cache_batch", None, "cached", None)),
        },
        outputs={
            "last_hidden_state": ("batch", "rows", None),
            **({"logits": ("batch", "logits_rows", "words")} if masked else {}),
            **dict.fromkeys(layer_names(size.layers, PRESENT), ("batch", None, "rows", None)),
        },
    )
    merge_products(model)
    if position is PromptPosition.ALL_LAYERS:
        cut_prompt_states(model)
    save_graph(model, path)
