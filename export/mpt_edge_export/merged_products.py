"""One product where several read the same rows, such as those for query, key and value.

A wide product is faster than three narrow ones, most of all for the few rows of a single text, and int8 activations
are quantized once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir

from mpt_edge._arrays import Floats


def merge_products(model: onnx_ir.Model) -> None:
    """Merge the products of equal rows with constant weights, and the biases after them, in place."""
    graph = model.graph
    rows = [value for node in graph for value in node.outputs]
    for products in [group for value in rows if len(group := list(_products(value))) > 1]:
        _merge(graph, products)


def _products(rows: onnx_ir.Value) -> Iterator[onnx_ir.Node]:
    """Yield the products of rows with constant matrices."""
    for use in rows.uses():
        weight = use.node.inputs[1] if use.node.op_type == "MatMul" and use.idx == 0 else None
        if weight is not None and weight.const_value is not None and weight.const_value.numpy().ndim == 2:
            yield use.node


def _merge(graph: onnx_ir.Graph, products: Sequence[onnx_ir.Node]) -> None:
    first = products[0]
    additions = [_addition(product) for product in products]
    biases = [addition for addition in additions if addition is not None]
    weights = [_constant(product.inputs[1]) for product in products]
    nodes = [_node("MatMul", first.inputs[0], _initializer(graph, first, "weight", np.concatenate(weights, axis=1)))]
    ends = list(products)
    if len(biases) == len(products):
        values = [_constant(addition.inputs[1]) for addition in biases]
        nodes.append(_node("Add", nodes[0].outputs[0], _initializer(graph, first, "bias", np.concatenate(values))))
        ends = biases
    sizes = np.array([weight.shape[1] for weight in weights])
    split = onnx_ir.node(
        "Split",
        [nodes[-1].outputs[0], _initializer(graph, first, "sizes", sizes)],
        {"axis": -1},
        num_outputs=len(products),
    )
    graph.insert_before(first, [*nodes, split])
    for end, part in zip(ends, split.outputs, strict=True):
        part.name, part.shape, part.type = f"{end.outputs[0].name}_part", end.outputs[0].shape, end.outputs[0].type
        end.outputs[0].replace_all_uses_with(part)
    unused = dict.fromkeys([*(ends if ends is biases else []), *products])
    constants = {node.inputs[1] for node in unused}
    graph.remove(list(unused), safe=True)
    for value in constants:
        if value is not None and not value.uses():
            graph.initializers.pop(value.name or "", None)


def _addition(product: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the addition of a constant bias to a product alone."""
    uses = list(product.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or uses[0].idx != 0:
        return None
    bias = uses[0].node.inputs[1]
    if bias is None or bias.const_value is None or bias.const_value.numpy().ndim != 1:
        return None
    return uses[0].node


def _node(kind: str, rows: onnx_ir.Value | None, constant: onnx_ir.Value) -> onnx_ir.Node:
    return onnx_ir.node(kind, [rows, constant])


def _constant(value: onnx_ir.Value | None) -> Floats:
    assert value is not None
    assert value.const_value is not None
    result: Floats = value.const_value.numpy()
    return result


def _initializer(graph: onnx_ir.Graph, product: onnx_ir.Node, role: str, array: np.ndarray[Any, Any]) -> onnx_ir.Value:
    value = onnx_ir.Value(name=f"{product.outputs[0].name}_merged_{role}", const_value=onnx_ir.tensor(array))
    graph.register_initializer(value)
    return value
