"""What the graphs of all families share: how they are made, and their ``prompt`` input."""

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
from mpt_edge.formats.prompts import Entry
from mpt_edge.training.backbones.backbone import Prompted
from mpt_edge_export.in_place import scatter_in_place

#: ONNX operator set of the graphs: the first with nodes for attention, rotary positions and RMS norms, and the one
#: for which torch's exporter makes them. Graphs with caches in place are raised to the next; see `in_place`.
OPSET = 23

#: Names of an input's or output's axes; None where the size is fixed.
Axes = tuple[str | None, ...]


def prompt_shape(model: Prompted, entry: Entry, length: int) -> tuple[int, ...]:
    """Return the shape of a prompt of ``length`` rows, without a batch; see `Manifest.prompt_shape`."""
    layers = (len(model.layers),) if entry == Entry.EVERY_LAYER else ()
    return (length, *layers, model.hidden_size)


def prompt_axes(entry: Entry) -> Axes:
    """Return the axes of the graph's ``prompt`` input."""
    return ("batch", "prompt_rows", *([None] if entry == Entry.EVERY_LAYER else []), None)


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what is printed, warned of, or logged below an error; what goes wrong is raised.

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
