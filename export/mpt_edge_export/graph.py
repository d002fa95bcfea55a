"""The exported graph: one copy of the weights that serves three calls (docs/design.md).

Inputs: ``input_ids``, ``attention_mask`` over cached prompt, prompt and text, ``token_type_ids``
where the model reads them, ``prompt`` rows (with an axis for layers where they enter every one), and
``past_key_values.i.key`` / ``.value``. Outputs: ``last_hidden_state`` over prompt and text, and
``present.i.key`` / ``.value`` of those rows. Models with a masked-LM head also take ``logits_index``
(rows that need logits) and ``word_ids`` (for which words), and give ``logits``. An axis that
a call does not use has length zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from torch import Tensor, nn

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.prompts import EVERY_LAYER
from mpt_edge.training.causal import PromptedCausal
from mpt_edge.training.prompted import PromptedEncoder
from mpt_edge.training.seq2seq import PromptedSeq2Seq
from mpt_edge_export.quiet import quiet
from mpt_edge_export.room import scatter_in_place
from mpt_edge_export.weights import save_graph

#: ONNX operator set of the graphs: the first with nodes for attention, rotary positions and RMS norms, and the one
#: for which torch's exporter makes them. Graphs with caches in place are raised to the next; see `room`.
OPSET = 23

#: Names of an input's or output's axes; None where the size is fixed.
Axes = tuple[str | None, ...]


class BackboneGraph(nn.Module):
    """`PromptedEncoder` with the flat inputs and outputs of the ONNX graph."""

    def __init__(self, encoder: PromptedEncoder, entry: str = "first_layer") -> None:
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


def layer_names(layers: int) -> list[str]:
    """Return ``0.key, 0.value, 1.key, …`` as Hugging Face and Optimum name them."""
    return [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]


def prompt_shape(model: PromptedEncoder | PromptedCausal | PromptedSeq2Seq, entry: str, length: int) -> tuple[int, ...]:
    """Return the shape of a prompt of ``length`` rows, without a batch; see `Manifest.prompt_shape`."""
    layers = (len(model.layers),) if entry == EVERY_LAYER else ()
    return (length, *layers, model.hidden_size)


def prompt_axes(entry: str) -> Axes:
    """Return the axes of the graph's ``prompt`` input."""
    return ("batch", "prompt_rows", *([None] if entry == EVERY_LAYER else []), None)


def export_graph(encoder: PromptedEncoder, heads: int, head_size: int, entry: str, path: Path) -> None:
    """Export the frozen encoder to one ONNX file.

    Args:
        encoder: the model, frozen and in evaluation mode.
        heads: attention heads of a layer.
        head_size: channels of a head.
        entry: where prompts enter, one of `mpt_edge.prompts.ENTRIES`.
        path: the file to write.
    """
    names = layer_names(encoder.layer_count)
    tokens, prompt_rows, cached = 5, 3, 4
    ids = torch.ones(2, tokens, dtype=torch.long)
    mask = torch.ones(2, cached + prompt_rows + tokens, dtype=torch.long)
    types = torch.zeros_like(ids) if encoder.token_types else None
    prompt = torch.zeros(2, *prompt_shape(encoder, entry, prompt_rows))
    past = tuple(torch.zeros(1, heads, cached, head_size) for _ in names)
    wanted, words = torch.zeros(2, 3, dtype=torch.long), torch.ones(4, dtype=torch.long)
    masked = encoder.masked is not None
    auto = torch.export.Dim.AUTO
    text_axes = {0: auto, 1: auto}
    model = make_graph(
        BackboneGraph(encoder, entry),
        (ids, mask, types, prompt, (wanted, words) if masked else None, *past),
        dynamic_shapes=(
            text_axes,
            text_axes,
            text_axes if encoder.token_types else None,
            text_axes,
            (text_axes, {0: auto}) if masked else None,
            ({2: auto},) * len(names),
        ),
        inputs={
            "input_ids": ("batch", "tokens"),
            "attention_mask": ("batch", "keys"),
            **({"token_type_ids": ("batch", "tokens")} if encoder.token_types else {}),
            "prompt": prompt_axes(entry),
            **({"logits_index": ("batch", "wanted"), "word_ids": ("words",)} if masked else {}),
            **{f"past_key_values.{name}": ("cache_batch", None, "cached", None) for name in names},
        },
        outputs={
            "last_hidden_state": ("batch", "rows", None),
            **({"logits": ("batch", "wanted", "words")} if masked else {}),
            **{f"present.{name}": ("batch", None, "rows", None) for name in names},
        },
    )
    save_graph(model, path)


def make_graph(
    module: nn.Module,
    arguments: tuple[Any, ...],
    *,
    dynamic_shapes: tuple[Any, ...],
    inputs: Mapping[str, Axes],
    outputs: Mapping[str, Axes],
) -> onnx_ir.Model:
    """Export a module and name every axis.

    A cache is exported with a batch of one. The products against it broadcast by themselves, so the
    graph holds no trace of that batch; only the declared shape does, and here it gets its name.

    Args:
        module: what to export.
        arguments: example inputs.
        dynamic_shapes: which of their axes vary, as `torch.export` takes it.
        inputs: name -> names of its axes, None for those of fixed size.
        outputs: likewise.

    Raises:
        UnsupportedModelError: PyTorch cannot export the module.
    """
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    except MemoryError:  # says itself what is wrong
        raise
    except Exception as error:  # the exporter wraps whatever goes wrong in the model, in pages of traces
        raise UnsupportedModelError(
            "PyTorch cannot export the model as a graph, which an unusual entry of its config.json may cause; use "
            "another model, or other versions of torch and transformers."
        ) from error
    assert program is not None
    model = program.model
    for value in [*model.graph.inputs, *model.graph.outputs]:
        axes = {**inputs, **outputs}[value.name or ""]
        assert value.shape is not None
        value.shape = onnx_ir.Shape([axis or size for axis, size in zip(axes, value.shape, strict=True)])
    scatter_in_place(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)  # stack traces of the exporter, half a megabyte
    model.producer_name = "mpt-edge"
    return model
