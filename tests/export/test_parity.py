"""Parity checks: graphs that disagree with PyTorch are refused, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mpt_edge.errors import ParityError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge_export import ExportPlan, bundle, export_bundle, parity
from mpt_edge_export.parity import check_parity, open_graph


def off_by_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)


def not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = OnnxEncoder._hidden
    monkeypatch.setattr(OnnxEncoder, "_hidden", lambda *arguments: hidden(*arguments) * np.float32("nan"))


@pytest.mark.parametrize("change", [off_by_some, not_a_number])
def test_disagreement_writes_nothing(
    tiny: EncoderBackbone,
    tiny_vectors: Path,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    change(monkeypatch)
    with pytest.raises(ParityError, match="no bundle was written"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "out" / "b"))
    assert list((tmp_path / "out").iterdir()) == []


def test_graph_with_other_weights_is_refused(
    tiny: EncoderBackbone, tiny_vectors: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(*arguments: object) -> None:
        model = onnx.load(tiny_bundle / MODEL)
        tensor = next(t for t in model.graph.initializer if list(t.dims) in ([32, 64], [64, 32]))
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[3, 5] += 0.5
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, arguments[-1])

    monkeypatch.setattr(bundle, "export_encoder_graph", damage)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "out" / "b"))
    assert list((tmp_path / "out").iterdir()) == []


def test_generative_graph(writer: GenerativeBackbone, writer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = open_graph(writer_bundle, Bundle.open(writer_bundle).manifest, Precision.FLOAT32)
    assert isinstance(graph, OnnxCausal)
    prompts = list(np.random.default_rng(0).standard_normal((2, 4, 32)).astype(np.float32))
    result = check_parity(writer, graph, prompts, PromptPosition.FIRST_LAYER)
    assert result["cases"] == 9 + 1
    assert 0 < result["max_abs_difference"] <= result["tolerance"] == parity.TOLERANCE
    graph.positions_from_zero = True  # as in a graph of learned positions
    with pytest.raises(ParityError, match="differs from PyTorch"):
        check_parity(writer, graph, prompts, PromptPosition.FIRST_LAYER)
