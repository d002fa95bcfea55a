"""Files that a graph names, compared with what the onnx package finds in it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpt_edge.formats.graph_files import external_files


def tensor(name: str, path: str | None) -> TensorProto:
    """Return a tensor, in a file or not."""
    value = numpy_helper.from_array(np.ones(4, np.float32), name)
    if path is not None:
        value.data_location = TensorProto.EXTERNAL
        value.external_data.add(key="offset", value="0")
        value.external_data.add(key="location", value=path)
        value.ClearField("raw_data")
    return value


def graph(*tensors: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], initializer=list(tensors))


def model(inner: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(inner)


def test_graphs_of_bundles(tiny_bundle: Path, writer_bundle: Path) -> None:
    for folder in (tiny_bundle, writer_bundle):
        (path,) = (folder / "onnx").glob("*.onnx")
        loaded = onnx.load(path, load_external_data=False)
        expected = {each.value for t in loaded.graph.initializer for each in t.external_data if each.key == "location"}
        assert external_files(path.read_bytes()) == expected == {"model.onnx_data"}


def test_wherever_a_tensor_can_be() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=tensor("c", "in-node"))
    branch = helper.make_node("If", ["x"], ["y"], then_branch=graph(tensor("t", "in-branch")), else_branch=graph())
    several = helper.make_node("Some", [], ["z"], domain="d", many=[tensor("a", "in-list"), tensor("b", "in-list-too")])
    made = model(graph(tensor("w", "../a path"), tensor("plain", None), nodes=(constant, branch, several)))
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("v", "in-values"))
    sparse.indices.CopyFrom(tensor("i", "in-indices"))
    made.functions.add().node.append(helper.make_node("Constant", [], ["c"], value=tensor("c", "in-function")))
    made.training_info.add().algorithm.CopyFrom(graph(tensor("t", "in-training")))
    assert external_files(made.SerializeToString()) == {
        "../a path", "in-node", "in-branch", "in-list", "in-list-too", "in-values", "in-indices", "in-function",
        "in-training",
    }  # fmt: skip


def test_entry_whose_value_comes_twice() -> None:
    """Readers take the last one, so both count, in either order."""
    first, key, second = b"\x12\x06listed", b"\x0a\x08location", b"\x12\x05other"
    for parts in ((key, first, second), (first, key, second), (second, first, key)):
        entry = b"".join(parts)
        data = model(graph()).SerializeToString() + field(7, field(5, field(13, entry)))
        assert external_files(data) == {"listed", "other"}


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def test_names_and_values_are_no_files() -> None:
    weights = numpy_helper.from_array(np.frombuffer(b"location" * 4, np.uint8), "location")
    described = helper.make_node("Identity", ["location"], ["y"], doc_string="location")
    assert external_files(model(graph(weights, nodes=(described,))).SerializeToString()) == set()


def test_numbers_of_any_length() -> None:
    """Tags and lengths may be spelled with more bytes than they need."""
    entry = b"\x8a\x00\x88\x00location\x92\x80\x00\x85\x00other"
    assert external_files(field(7, field(5, field(13, entry)))) == {"other"}


@pytest.mark.parametrize("data", [b"no graph", b"\x3a\x05a", b"\xff" * 20, b"\x0b", b"\x09a", b"\x08"])
def test_no_graph(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        external_files(data)


def test_too_deep() -> None:
    inner = field(13, b"\x0a\x08location\x12\x01a")
    data = inner
    for _ in range(400):
        size = len(data)
        data = b"\x32" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data  # graph of an attribute
        size = len(data)
        data = b"\x2a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data  # attribute of a node
        size = len(data)
        data = b"\x0a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data  # node of a graph
    size = len(data)
    data = b"\x3a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data
    with pytest.raises(ValueError, match="nested too deeply"):
        external_files(data)


def test_damage_raises_nothing_else(tiny_bundle: Path) -> None:
    data, draw = (tiny_bundle / "onnx/model.onnx").read_bytes(), random.Random(0)  # noqa: S311 - damage, no secret
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            external_files(bytes(changed[: draw.randint(1, len(changed))]))
        except ValueError:
            continue
