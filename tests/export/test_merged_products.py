"""Products of the same rows become one, with the same results."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpt_edge_export.merged_products import merge_products

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((2, 3, 4)).astype(np.float32)


def graph(biases: list[bool], *, widths: list[int], shared: bool = True) -> onnx.ModelProto:
    """Return a graph of products of ``x``, or the later ones of ``x + x``, some with a bias."""
    nodes, constants, outputs = [helper.make_node("Add", ["x", "x"], ["twice"])], [], []
    for i, (has_bias, width) in enumerate(zip(biases, widths, strict=True)):
        constants.append(numpy_helper.from_array(RNG.standard_normal((4, width)).astype(np.float32), f"w{i}"))
        end = f"product{i}"
        nodes.append(helper.make_node("MatMul", ["twice" if shared or i else "x", f"w{i}"], [end]))
        if has_bias:
            constants.append(numpy_helper.from_array(RNG.standard_normal(width).astype(np.float32), f"b{i}"))
            nodes.append(helper.make_node("Add", [end, f"b{i}"], [f"sum{i}"]))
            end = f"sum{i}"
        nodes.append(helper.make_node("Neg", [end], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [2, 3, width]))
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    made = helper.make_graph(nodes, "g", [rows], outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": ROWS}))


@pytest.mark.parametrize(
    ("biases", "additions"),
    [([True, True, True], 1), ([False, False, False], 0), ([True, False, True], 2)],
    ids=["biases are merged", "no biases", "some biases stay"],
)
def test_products_of_the_same_rows_are_one(biases: list[bool], additions: int) -> None:
    before = graph(biases, widths=[4, 2, 5])
    model = onnx_ir.from_proto(before)
    merge_products(model)
    after = onnx_ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("MatMul") == 1
    assert kinds.count("Add") == 1 + additions  # and the sum before the products
    assert {constant.name for constant in after.graph.initializer}.isdisjoint({"w0", "w1", "w2"})
    for given, expected in zip(answers(after), answers(before), strict=True):
        np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_products_of_other_rows_are_left_alone() -> None:
    model = onnx_ir.from_proto(graph([True, True], widths=[3, 3], shared=False))
    merge_products(model)
    assert [node.op_type for node in model.graph].count("MatMul") == 2
