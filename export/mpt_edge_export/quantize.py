"""Copies of an exported graph with weights of eight or four bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.formats.manifest import Family, Precision
from mpt_edge_export.blocks import BLOCK, block_sums, eight_bits, four_bits

#: Domain of ``MatMulNBits``, which is ONNX Runtime's own.
_CONTRIBUTED = "com.microsoft"

#: Products of whole numbers, with activations in blocks of int8; others convert the weights to floats at each call.
_INT8_ACTIVATIONS = 4


def quantize(path: Path, precision: Precision = Precision.INT8, family: Family = Family.ENCODER) -> onnx_ir.Model:
    """Return a graph's copy with quantized weights.

    In int8, each output channel has a scale, and all activations of a product have one. The nodes and numbers are those
    of `onnxruntime.quantization.quantize_dynamic`, which takes several times the memory and time. In int4, weights and
    activations are in blocks of `BLOCK`; the head of a generative model has eight bits.

    Decoder-only models have blocks in int8, too. Some of their activations are a thousand times the others, which one
    scale rounds to nothing: of SmolLM2-135M's next tokens 78 % are then those of float32, and 93 % with blocks. It
    also writes faster on one thread (94 tokens a second and 87), and reads slower (15 tokens in 34 ms and 21).

    Activations are quantized at run time, so no texts are needed to calibrate them. Embedding tables get eight bits.
    One that is also the head of a generative model becomes two, each with its own scales.
    """
    model = onnx_ir.load(path)
    _untie(model.graph)
    if precision is Precision.INT4 or family is Family.CAUSAL:
        _quantize_in_blocks(model, 4 if precision is Precision.INT4 else 8)
    else:
        _quantize_by_channel(model.graph)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    return model


def _quantize_by_channel(graph: onnx_ir.Graph) -> None:
    """Quantize products and lookups to int8."""
    quantized: dict[onnx_ir.Value, _Rows] = {}
    for node in list(graph):
        if node.op_type == "MatMul" and _is_weight(node.inputs[1], rank=2):
            _quantize_product(graph, node, quantized)
        elif node.op_type == "Gather" and _is_weight(node.inputs[0]):
            _quantize_lookup(graph, node)


def _quantize_in_blocks(model: onnx_ir.Model, bits: int) -> None:
    """Quantize products to four or eight bits, and lookups and the head to eight."""
    graph = model.graph
    lookups = [node for node in graph if _is_table_lookup(node)]
    vocabulary = max((_array(node.inputs[0]).shape[0] for node in lookups), default=0)
    for node in [node for node in graph if node.op_type == "MatMul" and _is_weight(node.inputs[1], rank=2)]:
        is_head = _array(node.inputs[1]).shape[1] == vocabulary
        _quantize_block_product(graph, node, 8 if is_head else bits)
    for node in lookups:
        _quantize_row_lookup(graph, node)
    model.opset_imports[_CONTRIBUTED] = 1


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


def _is_table_lookup(node: onnx_ir.Node) -> bool:
    """Return whether a node looks rows of a constant table up."""
    is_lookup = node.op_type == "Gather" and _is_weight(node.inputs[0], rank=2)
    return is_lookup and node.attributes.get_int("axis", 0) == 0


def _quantize_block_product(graph: onnx_ir.Graph, node: onnx_ir.Node, bits: int) -> None:
    """Replace a product with constant weights by one with weights in blocks."""
    rows, weight = node.inputs
    inputs, outputs = _array(weight).shape
    assert weight is not None
    blocks = (four_bits if bits == 4 else eight_bits)(_array(weight))
    constants = [
        _constant(graph, f"{weight.name}_{part}", array)
        for part, array in (("quantized", blocks.numbers), ("scale", blocks.scales))
    ]
    sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": _INT8_ACTIVATIONS}
    product = onnx_ir.node("MatMulNBits", [rows, *constants], sizes, domain=_CONTRIBUTED)
    if blocks.offsets is None:
        _replace(graph, node, [product])
        return
    offsets = _constant(graph, f"{weight.name}_offset", blocks.offsets)
    sums = onnx_ir.node("MatMul", [rows, _constant(graph, f"block_sums_{inputs}", block_sums(inputs))])
    addend = onnx_ir.node("MatMul", [*sums.outputs, offsets])
    _replace(graph, node, [product, sums, addend, onnx_ir.node("Add", [*product.outputs, *addend.outputs])])


def _quantize_row_lookup(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    """Replace a lookup in a constant table by one of bytes and of their rows' scales."""
    table, index = node.inputs
    numbers, scale = _constants(graph, table, _per_row)
    lookups = [onnx_ir.node("Gather", [each, index], {"axis": 0}) for each in (numbers, scale)]
    cast = onnx_ir.node("Cast", lookups[0].outputs, {"to": onnx_ir.DataType.FLOAT})
    _replace(graph, node, [*lookups, cast, onnx_ir.node("Mul", [*cast.outputs, *lookups[1].outputs])])


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


def _array(value: onnx_ir.Value | None) -> Floats:
    """Return a constant's floats."""
    assert value is not None
    assert value.const_value is not None
    array: Floats = value.const_value.numpy()
    return array


def _constants(
    graph: onnx_ir.Graph, value: onnx_ir.Value | None, quantized: Callable[[Floats], Sequence[NDArray[Any]]]
) -> list[onnx_ir.Value]:
    """Return a constant as whole numbers, their scales and, where they have some, zero points."""
    assert value is not None
    names = [f"{value.name}_{part}" for part in ("quantized", "scale", "zero_point")]
    if names[0] not in graph.initializers:
        for name, array in zip(names, quantized(_array(value)), strict=False):
            graph.register_initializer(onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name)))
    return [graph.initializers[name] for name in names if name in graph.initializers]


def _constant(graph: onnx_ir.Graph, name: str, array: NDArray[Any]) -> onnx_ir.Value:
    """Return a constant by its name, which is made where there is none yet."""
    if name not in graph.initializers:
        graph.register_initializer(onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name)))
    return graph.initializers[name]


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


def _per_row(table: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize a table to bytes with a scale for each row."""
    scale = np.abs(table).max(1, keepdims=True) / np.float32(127)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale).astype(np.float32)
    return np.rint(table / scale).astype(np.int8), scale


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
