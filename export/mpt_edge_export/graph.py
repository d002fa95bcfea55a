"""The export of one graph, and the ``prompt`` input that the graphs of all families share."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from torch import nn

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.formats.placement import PromptPosition
from mpt_edge_export.dimensions import Dimensions
from mpt_edge_export.in_place import scatter_in_place

#: ONNX operator set of the graphs: the first with nodes for attention, rotary positions and RMS norms, and the one
#: for which PyTorch's exporter makes them. Graphs with caches in place are raised to the next; see `in_place`.
OPSET = 23

#: Names of an input's or output's axes; None where the size is fixed.
Axes = tuple[str | None, ...]

#: Virtual tokens of the example prompt by which a graph is traced.
EXAMPLE_LENGTH = 3


def example_prompt(size: Dimensions, position: PromptPosition) -> torch.Tensor:
    """Return a prompt of `EXAMPLE_LENGTH` virtual tokens for a batch of two, to trace a graph by."""
    layers = (size.layers,) if position is PromptPosition.ALL_LAYERS else ()
    return torch.zeros(2, EXAMPLE_LENGTH, *layers, size.hidden_size)


def prompt_axes(position: PromptPosition) -> Axes:
    """Return the axes of the graph's ``prompt`` input."""
    layers = (None,) if position is PromptPosition.ALL_LAYERS else ()
    return ("batch", "prompt_rows", *layers, None)


def make_graph(
    module: nn.Module,
    arguments: tuple[Any, ...],
    *,
    dynamic_shapes: tuple[Any, ...],
    inputs: Mapping[str, Axes],
    outputs: Mapping[str, Axes],
) -> onnx_ir.Model:
    """Export a module and name every axis.

    An encoder's cache is exported with a batch of one, and expanded to that of the texts. So that batch appears in
    no node. Only the declared shape has it, and there it gets its name.

    Args:
        module: the module to export.
        arguments: example inputs.
        dynamic_shapes: their dynamic axes, as `torch.export` takes them.
        inputs: names of each input's axes, None for those of fixed size.
        outputs: names of each output's axes.

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
    except MemoryError:  # its own message is clear
        raise
    except Exception as error:  # the exporter wraps any failure of the model, in pages of traces
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence exporter output, warnings and log messages below errors.

    Logging that the caller had disabled stays so, within the block and after it.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
