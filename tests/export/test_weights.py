"""Weights beside graphs: large tensors are stored once, on memory pages, and read unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from mpt_edge_export.weights import save_graphs

LARGE = np.arange(512, dtype=np.float32)


def graph(**weights: np.ndarray) -> onnx_ir.Model:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in weights]
    outputs = [
        helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, value.shape) for name, value in weights.items()
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return onnx_ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", [], outputs, tensors)))


def offsets(path: Path) -> dict[str, int]:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: int(entry.value) for t in tensors for entry in t.external_data if entry.key == "offset"}


def test_equal_weights_are_stored_once_whatever_their_names(tmp_path: Path) -> None:
    first = {"table": LARGE, "small": np.ones(3, np.float32), "turned": LARGE.reshape(2, 256)}
    second = {"head": LARGE, "other": LARGE + 1}
    one, two, weights = (tmp_path / name for name in ("one.onnx", "two.onnx", "weights"))
    save_graphs({one: graph(**first), two: graph(**second)}, weights)
    assert (offsets(one)["table"], offsets(two)["head"]) == (0, 0)
    assert "small" not in offsets(one)
    assert all(offset % 4096 == 0 for path in (one, two) for offset in offsets(path).values())
    assert weights.stat().st_size == 2 * 4096 + LARGE.nbytes
    for path, given in ((one, first), (two, second)):
        for tensor in onnx.load(path).graph.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), given[tensor.name])
