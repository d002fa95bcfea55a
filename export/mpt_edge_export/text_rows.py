"""Layers that compute text alone, where each layer reads virtual tokens of its own.

Such a prompt leaves nothing in a layer but its keys and values: the next layer cuts its states off and puts its
own virtual tokens there. The cut moves up to the end of the attention, so that neither the products after it nor
the norms compute states that are cut off. A prompt is then encoded in a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir

#: Nodes that compute each row from the same row of their inputs; MatMul does with a constant matrix.
_ROW_WISE = ("Add", "Gelu", "LayerNormalization", "Erf", "Mul", "Div", "Tanh", "Relu")


def cut_prompt_states(model: onnx_ir.Model) -> None:
    """Move each cut of the prompt's states in front of the nodes that compute row by row, in place."""
    graph = model.graph
    prompt = next(value for value in graph.inputs if value.name == "prompt")
    for cut in [node for node in graph if node.op_type == "Slice"]:
        whole = cut.inputs[0]
        nodes = _row_wise_nodes(whole)
        if whole is None or not nodes or not _is_only_for(cut, nodes):
            continue
        for value in list(_frontier(nodes)):
            rows = _text_of(value, prompt) or _cut_before(graph, nodes, value, cut)
            for use in list(value.uses()):
                if use.node in nodes:
                    use.node.replace_input_with(use.idx, rows)
        _replace(cut.outputs[0], whole)
        graph.remove(cut, safe=True)


def _replace(old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    """Let a value take another's place, and its name where it is an output of the graph."""
    is_output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if is_output:
        old.name = None
        new.name, new.shape, new.type = name, old.shape, old.type


def _row_wise_nodes(rows: onnx_ir.Value | None) -> list[onnx_ir.Node]:
    """Return the nodes that compute rows one by one, from the last one up to the attention."""
    found: list[onnx_ir.Node] = []
    open_ = [rows]
    while open_:
        value = open_.pop()
        node = None if value is None else value.producer()
        if node is None or node in found or not _is_row_wise(node):
            continue
        found.append(node)
        open_ += [each for each in node.inputs if each is not None and each.const_value is None]
    return found


def _is_row_wise(node: onnx_ir.Node) -> bool:
    if node.op_type == "MatMul":
        return node.inputs[1] is not None and node.inputs[1].const_value is not None
    return node.op_type in _ROW_WISE


def _is_only_for(cut: onnx_ir.Node, nodes: list[onnx_ir.Node]) -> bool:
    """Whether nothing but a cut reads what nodes compute."""
    return all(
        (use.node in nodes or use.node is cut) and not value.is_graph_output()
        for node in nodes
        for value in node.outputs
        for use in value.uses()
    )


def _frontier(nodes: list[onnx_ir.Node]) -> Iterator[onnx_ir.Value]:
    """Yield the rows that nodes read and do not compute."""
    values = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    yield from (value for value in values if value.const_value is None and value.producer() not in nodes)


def _text_of(value: onnx_ir.Value, prompt: onnx_ir.Value) -> onnx_ir.Value | None:
    """Return the text's rows of a layer's input, which is put together from a prompt's rows and these."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    own = node.inputs[0]
    gather = None if own is None else own.producer()
    is_prompt = gather is not None and gather.op_type == "Gather" and gather.inputs[0] is prompt
    return node.inputs[1] if is_prompt else None


def _cut_before(
    graph: onnx_ir.Graph, nodes: list[onnx_ir.Node], value: onnx_ir.Value, cut: onnx_ir.Node
) -> onnx_ir.Value:
    """Return a value without the rows that a cut takes off."""
    first = next(node for node in graph if node in nodes and value in node.inputs)
    earlier = onnx_ir.node("Slice", [value, *cut.inputs[1:]])
    earlier.outputs[0].name = f"{value.name}_text"
    graph.insert_before(first, [earlier])
    return earlier.outputs[0]
