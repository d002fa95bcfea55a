"""Comparison of quantized graphs: refusal, next tokens, and warnings."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.special import log_softmax

from mpt_edge.errors import ParityError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Precision
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch
from mpt_edge_export.quantized_parity import MIN_COSINE, Comparison, loss_warning


class Writer:
    """A generative graph whose logits depend on the last token alone."""

    def __init__(self, table: np.ndarray) -> None:
        self.table, self.read = table, np.empty(0)

    def encode_prompt(self, prompt: np.ndarray) -> np.ndarray:
        return prompt

    def open(self, batch: Batch, caches: object) -> tuple[Writer, np.ndarray]:
        assert caches
        return self, self.table[batch.input_ids[:, -1]]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.table[tokens]

    def extend(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        assert mask.all()
        self.read = tokens
        return self.table[tokens]


def test_graph_with_wrong_weights_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    path = tiny_bundle / "onnx/model.onnx"
    model = onnx.load(path)
    for value in model.graph.initializer:
        if len(value.dims) == 2:
            rolled = np.roll(numpy_helper.to_array(value), 1, axis=0)
            value.CopyFrom(numpy_helper.from_array(rolled, value.name))
    onnx.save(model, tmp_path / "lost.onnx")
    graphs = [OnnxEncoder(each, bundle.manifest) for each in (path, tmp_path / "lost.onnx")]
    prompt = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)
    for precision in ("int8", "int4"):
        with pytest.raises(ParityError, match=f"the {precision} graph reads texts unlike the float32 one"):
            Comparison(Precision(precision), *graphs, vocabulary=100, manifest=bundle.manifest).measure([prompt])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_graph_without_output_is_refused(value: float) -> None:
    exact, broken = Writer(np.random.default_rng(0).standard_normal((5, 5))), Writer(np.full((5, 5), value))
    comparison = Comparison(Precision.INT8, exact, broken, vocabulary=5, manifest=Mock(max_length=32))
    with pytest.raises(ParityError, match=r"cosine -1\.000"), np.errstate(invalid="ignore"):
        comparison.measure([np.ones((1, 2), np.float32)])


def test_next_tokens() -> None:
    """Both graphs read the same tokens, drawn by the first one's probabilities."""
    rng = np.random.default_rng(0)
    exact = Writer(2 * rng.standard_normal((7, 7)))
    copy = Writer(exact.table + 0.3 * rng.standard_normal((7, 7)))
    manifest = Mock(max_length=200)
    result = Comparison(Precision.INT4, exact, copy, vocabulary=7, manifest=manifest).measure([np.ones((1, 2))] * 3)
    a, b = (log_softmax(each.table, axis=1) for each in (exact, copy))
    divergences = (np.exp(a) * (a - b)).sum(1)
    assert divergences.min() < result["mean_divergence"] < divergences.max()
    assert 0 < result["equal_next_tokens"] <= 1
    assert MIN_COSINE <= result["min_cosine"] < 1
    assert result["texts"] == 24
    assert copy.read.shape == (8, 16)
    same = Comparison(Precision.INT4, exact, exact, vocabulary=7, manifest=manifest).measure([np.ones((1, 2))])
    assert (same["equal_next_tokens"], same["mean_divergence"], same["min_cosine"]) == (1, 0, 1)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_models_of_few_positions(length: int) -> None:
    graph = Writer(np.random.default_rng(0).standard_normal((5, 5)))
    manifest = Mock(max_length=length)
    result = Comparison(Precision.INT4, graph, graph, vocabulary=5, manifest=manifest).measure([np.ones((1, 2))])
    assert result["equal_next_tokens"] == 1
    assert graph.read.size == 8 * {1: 0, 2: 1, 3: 1}[length]


def test_warning() -> None:
    good = {"min_cosine": 0.95, "texts": 8, "equal_next_tokens": 0.8, "mean_divergence": 0.1}
    assert loss_warning("int4", good) is None
    assert "int4 graph chooses the float32 graph's next token in 79 % of" in str(
        loss_warning("int4", good | {"equal_next_tokens": 0.79})
    )
    assert loss_warning("int8", {"min_cosine": 0.97, "texts": 8}) is None
    assert "the int8 graph reads texts unlike" in str(loss_warning("int8", {"min_cosine": 0.969, "texts": 8}))
