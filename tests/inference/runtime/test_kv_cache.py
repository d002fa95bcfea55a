"""A cache that grows in place, with a graph that sums the tokens it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from mpt_edge.inference.runtime.graph_names import PAST_LENGTH
from mpt_edge.inference.runtime.kv_cache import KeyValueCache, stack
from mpt_edge.inference.runtime.session import SessionOptions, open_session

PAST, PRESENT = "past_key_values.0.key", "present.0.key"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph with tokens as keys; its logit is the sum of the visible ones, times a factor of the row."""
    integers = {
        "input_ids": ["batch", "tokens"],
        "attention_mask": ["batch", "capacity"],
        "logits_index": ["batch", "requested"],
        PAST_LENGTH: [1],
    }
    room = ["batch", 1, "capacity", 1]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in integers.items()]
    inputs += [helper.make_tensor_value_info(PAST, TensorProto.FLOAT, room)]
    inputs += [helper.make_tensor_value_info("factor", TensorProto.FLOAT, ["batch", 1])]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axes"], ["new"]),
        helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1),
        helper.make_node("Expand", [PAST_LENGTH, "batch"], ["starts"]),
        helper.make_node("TensorScatter", [PAST, "new", "starts"], [PRESENT], axis=-2, mode="linear"),
        helper.make_node("Squeeze", [PRESENT, "axes"], ["keys"]),
        helper.make_node("Cast", ["attention_mask"], ["visible"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["keys", "visible"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "last"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "factor"], ["scaled"]),
        helper.make_node("Shape", ["logits_index"], ["requested"]),
        helper.make_node("Expand", ["scaled", "requested"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "two"], ["logits"]),
    ]
    constants = {"axes": [1, 3], "last": [1], "two": [2]}
    made = helper.make_graph(
        nodes,
        "sums",
        inputs,
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "requested", 1]),
            helper.make_tensor_value_info(PRESENT, TensorProto.FLOAT, room),
        ],
        [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in constants.items()],
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)], ir_version=10), path)
    return path


def opened(graph: Path, rows: int = 2) -> KeyValueCache:
    """Return rows after a prompt of two keys, 100 and 200, of which the last row sees only the second."""
    seen = np.ones((rows, 2), np.int64)
    seen[-1, 0] = 0
    prompt = np.array([100, 200], np.float32).reshape(1, 1, 2, 1)
    factor = np.arange(1, rows + 1, dtype=np.float32)[:, None]
    return KeyValueCache(open_session(graph, SessionOptions(threads=1)), {PAST: prompt}, seen, {"factor": factor})


def read(cache: KeyValueCache, tokens: list[list[int]], mask: list[list[int]] | None = None) -> list[float]:
    ids = np.array(tokens)
    index = np.zeros((len(ids), 1), np.int64)
    result = cache.read(
        {"input_ids": ids, "logits_index": index}, np.ones_like(ids) if mask is None else np.array(mask)
    )
    assert result.shape == (len(ids), 1, 1)
    return [float(value) for value in result[:, 0, 0]]


def test_masks_of_prompt_and_text(graph: Path) -> None:
    cache = opened(graph)
    assert read(cache, [[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [1, 1, 0]]) == [306, 2 * 209]
    assert read(cache, [[7], [8]]) == [313, 2 * 217]
    assert (cache.rows, cache.length) == (2, 6)


@pytest.mark.parametrize("steps", [61, 62, 63, 200])
def test_growth_loses_nothing(graph: Path, steps: int) -> None:
    """Whether the cache is full when it grows, or not."""
    cache = opened(graph)
    for step in range(1, steps + 1):
        total = step * (step + 1) // 2
        assert read(cache, [[step], [10 * step]]) == [300 + total, 2 * (200 + 10 * total)]
    assert read(cache, [[1] * 70, [1] * 70]) == [300 + total + 70, 2 * (200 + 10 * total + 70)]
    assert cache.length == 2 + steps + 70


def test_select(graph: Path) -> None:
    cache = opened(graph, rows=3)
    cache.select(np.array([1, 0, 2]))  # before anything is read
    assert read(cache, [[2], [1], [3]]) == [2 * 302, 301, 3 * 203]
    cache.select(np.array([1, 0, 2]))
    cache.select(np.array([2, 0, 2, 1]))
    assert cache.rows == 4
    assert read(cache, [[10], [20], [30], [40]]) == [3 * 213, 1 * 321, 3 * 233, 2 * 342]
    fixed = cache._fixed["factor"]
    cache.select(np.array([2, 1, 0, 3]))  # rows of one text change places, so fixed inputs stay
    assert cache._fixed["factor"] is fixed
    assert read(cache, [[1], [1], [1], [1]]) == [3 * 234, 1 * 322, 3 * 214, 2 * 343]
    cache.select(np.array([1]))
    assert read(cache, [[1000]]) == [1322]


def test_steps_copy_nothing(graph: Path) -> None:
    """The graph writes into one array, until its capacity ends."""
    cache = opened(graph, rows=1)
    read(cache, [[1]])
    array = cache._cache[PAST]
    for step in range(2, 63):
        read(cache, [[step]])
        assert cache._cache[PAST] is array
        assert array[0, 0, 1 + step, 0] == step
    read(cache, [[63]])
    assert cache._cache[PAST] is not array


def test_single_steps(graph: Path) -> None:
    """A step answers as `read` does, while the cache grows and rows are selected. Earlier logits stay."""
    cache = opened(graph)
    ids = np.array([[1, 1], [2, 2]])
    before = cache.read({"input_ids": ids, "logits_index": np.zeros((2, 1), np.int64)}, np.ones_like(ids))
    assert before[:, 0, 0].tolist() == [302, 2 * 204]
    for number in range(1, 71):
        assert step(cache, [1, 10]) == [302 + number, 2 * (204 + 10 * number)]
    assert before[:, 0, 0].tolist() == [302, 2 * 204]
    assert read(cache, [[1], [1]]) == [373, 2 * 905]
    assert step(cache, [1, 1]) == [374, 2 * 906]
    cache.select(np.array([1, 0, 0]))
    assert step(cache, [1, 2, 3]) == [2 * 907, 376, 377]
    assert cache.length == 2 + 2 + 70 + 3


def step(cache: KeyValueCache, tokens: list[int]) -> list[float]:
    ids = np.array(tokens)[:, None]
    result = cache.step({"input_ids": ids, "logits_index": np.zeros_like(ids)})
    assert result.shape == (len(tokens), 1)
    return [float(value) for value in result[:, 0]]


def test_stack_pads_and_masks_shorter_prompts() -> None:
    rng = np.random.default_rng(0)
    caches = [{PAST: rng.normal(size=(1, 4, length, 8)).astype(np.float32)} for length in (6, 11)]
    stacked, mask = stack([*caches, caches[0]])
    np.testing.assert_array_equal(mask, [[1] * 6 + [0] * 5, [1] * 11, [1] * 6 + [0] * 5])
    assert stacked[PAST].shape == (3, 4, 11, 8)
    np.testing.assert_array_equal(stacked[PAST][2], stacked[PAST][0])
    np.testing.assert_array_equal(stacked[PAST][0, :, :6], caches[0][PAST][0])
    np.testing.assert_array_equal(stacked[PAST][0, :, 6:], 0)
    np.testing.assert_array_equal(stacked[PAST][1], caches[1][PAST][0])
