"""Caches that the graph writes in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import torch
from torch import Tensor, nn

from mpt_edge_export.graph import make_graph
from mpt_edge_export.in_place import InPlaceCache


class Append(nn.Module):
    """One layer's cache, extended by new rows."""

    def forward(self, new: Tensor, past_length: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        cache = InPlaceCache([(past, past)], past_length)
        return cache.update(new, 2 * new, 0)


def test_new_rows_are_written_after_the_others(tmp_path: Path) -> None:
    axes = ("batch", None, "rows", None)
    model = make_graph(
        Append(),
        (torch.zeros(2, 3, 2, 4), torch.zeros(1, dtype=torch.long), torch.zeros(2, 3, 8, 4)),
        dynamic_shapes=({2: torch.export.Dim.AUTO}, None, {2: torch.export.Dim.AUTO}),
        inputs={"new": axes, "past_length": (None,), "past": axes},
        outputs={"keys": axes, "values": axes},
    )
    assert model.opset_imports == {"": 24}
    assert [node.op_type for node in model.graph].count("TensorScatter") == 2
    onnx_ir.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    new, past = (rng.standard_normal((2, 3, rows, 4)).astype(np.float32) for rows in (3, 6))
    results = session.run(None, {"new": new, "past_length": np.array([2]), "past": past})
    for result, factor in zip(results, (1, 2), strict=True):
        expected = past.copy()
        expected[:, :, 2:5] = factor * new
        assert np.array_equal(result, expected)


def test_positions_count_on_from_the_rows_in_use() -> None:
    cache = InPlaceCache([(torch.zeros(1, 1, 8, 2),) * 2], torch.tensor([3]))
    assert cache.places(torch.ones(1, 8), 2).tolist() == [3, 4]
