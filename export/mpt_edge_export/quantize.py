"""The int8 copy of an exported graph, and its comparison with the float32 one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import ParityError
from mpt_edge.formats.manifest import Pooling
from mpt_edge.inference.numerics import pool
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch
from mpt_edge_export.parity import Graph

#: Smallest cosine between float32 and int8 outputs of a text. Real models were above 0.98; a graph below this has lost
#: its weights, not some digits.
MIN_COSINE = 0.9

_ROWS, _TOKENS = 8, 16


def quantize(path: Path) -> onnx_ir.Model:
    """Return a graph's copy with int8 weights, a scale for each output channel.

    Activations are quantized at run time (dynamic quantization), so no texts are needed to calibrate
    them. An embedding table that is also the head of a generative model becomes two, each with its
    own scales. The nodes and numbers are those of `onnxruntime.quantization.quantize_dynamic`, which
    takes several times the memory and time.
    """
    model = onnx_ir.load(path)
    _untie(model.graph)
    quantized: dict[onnx_ir.Value, _Rows] = {}
    for node in list(model.graph):
        if node.op_type == "MatMul" and _is_weight(node.inputs[1], rank=2):
            _quantize_product(model.graph, node, quantized)
        elif node.op_type == "Gather" and _is_weight(node.inputs[0]):
            _quantize_lookup(model.graph, node)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    return model


@dataclass(frozen=True)
class _Rows:
    """Quantized input of products."""

    values: onnx_ir.Value
    scale: onnx_ir.Value
    zero_point: onnx_ir.Value


def _is_weight(value: onnx_ir.Value | None, rank: int | None = None) -> bool:
    """Return whether a value is a constant of floats, with ``rank`` dimensions if that is given."""
    tensor = value.const_value if value is not None and value.is_initializer() else None
    is_float = tensor is not None and tensor.dtype == onnx_ir.DataType.FLOAT
    return is_float and (rank is None or len(tensor.shape) == rank)  # type: ignore[union-attr]


def _quantize_product(graph: onnx_ir.Graph, node: onnx_ir.Node, quantized: dict[onnx_ir.Value, _Rows]) -> None:
    """Replace a product with constant weights by one of whole numbers and its scaling."""
    rows, weight = node.inputs
    assert rows is not None
    assert weight is not None
    if rows not in quantized:  # products of the same rows share their quantized ones
        inner = onnx_ir.node("DynamicQuantizeLinear", [rows], num_outputs=3)
        for output, name in zip(inner.outputs, ("quantized", "scale", "zero_point"), strict=True):
            output.name = f"{rows.name}_{name}"
        graph.insert_before(node, inner)
        quantized[rows] = _Rows(*inner.outputs)
    inputs = quantized[rows]
    numbers, scale, zero_point = _constants(graph, weight, _per_channel)
    product = onnx_ir.node("MatMulInteger", [inputs.values, numbers, inputs.zero_point, zero_point])
    cast = onnx_ir.node("Cast", product.outputs, {"to": onnx_ir.DataType.FLOAT})
    factor = onnx_ir.node("Mul", [inputs.scale, scale])
    _replace(graph, node, [product, cast, factor, onnx_ir.node("Mul", [*cast.outputs, *factor.outputs])])


def _quantize_lookup(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Replace a lookup in a constant table by one of bytes and their scaling."""
    table, index = node.inputs
    assert table is not None
    numbers, scale, zero_point = _constants(graph, table, _per_table)
    lookup = onnx_ir.node("Gather", [numbers, index], node.attributes)
    _replace(graph, node, [lookup, onnx_ir.node("DequantizeLinear", [*lookup.outputs, scale, zero_point])])


def _replace(graph: onnx_ir.Graph, node: onnx_ir.Node, nodes: Sequence[onnx_ir.Node]) -> None:
    """Replace a node by others, of which the last gives the same output."""
    (old,), (new,) = node.outputs, nodes[-1].outputs
    for number, inner in enumerate(nodes[:-1]):
        inner.outputs[0].name = f"{old.name}_{inner.op_type}_{number}"
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = f"{old.name}_float"
    graph.insert_before(node, nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


_Quantized = tuple[NDArray[Any], NDArray[np.float32], NDArray[Any]]


def _constants(
    graph: onnx_ir.Graph, value: onnx_ir.Value, quantized: Callable[[Floats], _Quantized]
) -> list[onnx_ir.Value]:
    """Return a constant as whole numbers, their scales and zero points."""
    names = [f"{value.name}_{part}" for part in ("quantized", "scale", "zero_point")]
    if names[0] not in graph.initializers:
        assert value.const_value is not None
        for name, array in zip(names, quantized(value.const_value.numpy()), strict=True):
            graph.register_initializer(onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name)))
    return [graph.initializers[name] for name in names]


def _per_channel(weight: Floats) -> _Quantized:
    """Quantize a matrix to int8, with a scale for each column and zero points of zero."""
    scale = (2 * np.abs(weight).max(0).astype(np.float64) / 254).astype(np.float32)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)
    numbers = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    return numbers, scale, np.zeros(len(scale), np.int8)


def _per_table(table: Floats) -> _Quantized:
    """Quantize a table to bytes with one scale."""
    low, high = min(0.0, float(table.min())), max(0.0, float(table.max()))
    scale = np.float32((high - low) / 255)
    scale = np.float32(1) if scale < np.finfo(np.float32).tiny else scale
    zero_point = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    numbers = np.clip(np.rint(table / scale) + zero_point, 0, 255).astype(np.uint8)
    return numbers, np.asarray(scale), np.asarray(zero_point)


def check_quantized(
    exact: Graph,
    quantized: Graph,
    prompts: Sequence[Floats],
    *,
    vocabulary: int,
    pooling: Pooling | None,
    max_length: int = _TOKENS,
) -> dict[str, Any]:
    """Compare the outputs of both graphs for random texts under each prompt.

    Args:
        exact: the float32 graph in ONNX Runtime.
        quantized: its int8 copy.
        prompts: composed prompts of the tasks.
        vocabulary: number of tokens.
        pooling: pooling of an encoder; None for generative models.
        max_length: maximum length of a text in tokens.

    Returns:
        The smallest cosine and the number of texts. The cosine is that of pooled hidden states, or of
        centered logits of the next token.

    Raises:
        ParityError: the cosine is below `MIN_COSINE`.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (_ROWS, min(_TOKENS, max_length)))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    smallest = 1.0
    for prompt in prompts:
        a, b = (_outputs(graph, batch, prompt, pooling) for graph in (exact, quantized))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        smallest = min(smallest, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    if smallest < MIN_COSINE:
        raise ParityError(
            f"the int8 graph reads texts unlike the float32 one (cosine {smallest:.3f}, at least {MIN_COSINE} is "
            "expected); no bundle was written. Export this backbone with --precision float32."
        )
    return {"min_cosine": round(smallest, 4), "texts": _ROWS * len(prompts)}


def _outputs(graph: Graph, batch: Batch, prompt: Floats, pooling: Pooling | None) -> Floats:
    """Return a vector of each text: its pooled state, or the centered logits of its next token."""
    if isinstance(graph, OnnxEncoder):
        assert pooling is not None
        return pool(graph.request(batch, graph.encode_prompt(prompt)), batch.attention_mask, pooling)
    logits = graph.open(batch, [graph.encode_prompt(prompt)])[1]
    centered: Floats = logits - logits.mean(1, keepdims=True)
    return centered


def _untie(graph: onnx_ir.Graph) -> None:
    """Give products with a transposed table, such as tied heads, a weight of their own.

    Only a product with a weight is quantized, and lookups need other scales of the table than products.
    """
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Transpose" else None
        if table is None or table.const_value is None:
            continue
        transposed = np.ascontiguousarray(table.const_value.numpy().transpose(node.attributes.get_ints("perm")))
        weight = onnx_ir.Value(name=f"{table.name}_transposed", const_value=onnx_ir.tensor(transposed))
        graph.register_initializer(weight)
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)
