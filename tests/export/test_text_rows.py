"""Cuts move in front of what computes row by row, with the same results."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mpt_edge_export.text_rows import cut_prompt_states

RNG = np.random.default_rng(0)
PROMPT = RNG.standard_normal((1, 2, 2, 4)).astype(np.float32)
TEXT = RNG.standard_normal((1, 3, 4)).astype(np.float32)


def constant(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def graph(*, is_read_twice: bool = False) -> onnx.ModelProto:
    """Return a layer: rows of a prompt and a text, a mix of all rows, products and a norm, and the text cut off."""
    numbers = {"zero": np.array(0), "length": np.array([2]), "end": np.array([99]), "axis": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["prompt", "zero"], ["own"], axis=2),
        helper.make_node("Concat", ["own", "text"], ["rows"], axis=1),
        helper.make_node("CumSum", ["rows", "axis"], ["mixed"]),  # as attention does, it reads other rows
        helper.make_node("MatMul", ["mixed", "w0"], ["product"]),
        helper.make_node("Add", ["product", "rows"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale"], ["norm"], axis=-1),
        helper.make_node("MatMul", ["norm", "w1"], ["wide"]),
        helper.make_node("Gelu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["narrow"]),
        helper.make_node("Add", ["narrow", "norm"], ["states"]),
        helper.make_node("Slice", ["states", "length", "end", "axis"], ["hidden"]),
        *([helper.make_node("Neg", ["states"], ["other"])] if is_read_twice else []),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    constants += [constant("w0", 4, 4), constant("w1", 4, 8), constant("w2", 8, 4), constant("scale", 4)]
    inputs = [
        helper.make_tensor_value_info("prompt", TensorProto.FLOAT, [1, 2, 2, 4]),
        helper.make_tensor_value_info("text", TensorProto.FLOAT, [1, 3, 4]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 4])
        for name in ["hidden", *(["other"] if is_read_twice else [])]
    ]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    for name in set(names) - {output.name for output in model.graph.output}:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names), {"prompt": PROMPT, "text": TEXT}))


def test_products_and_norms_compute_the_text_alone() -> None:
    before = graph()
    (expected,) = run(before, "hidden")
    model = onnx_ir.from_proto(before)
    cut_prompt_states(model)
    after = onnx_ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    hidden, *inner = run(after, "hidden", "product", "norm", "active", "rows", "mixed")
    np.testing.assert_allclose(hidden, expected, atol=1e-6)
    assert [values.shape[1] for values in inner] == [3, 3, 3, 5, 5]
    assert [node.op_type for node in after.graph.node].count("Slice") == 1


def test_states_that_something_else_reads_stay_whole() -> None:
    model = onnx_ir.from_proto(graph(is_read_twice=True))
    cut_prompt_states(model)
    (states,) = run(onnx_ir.to_proto(model), "states")
    assert states.shape[1] == 5
