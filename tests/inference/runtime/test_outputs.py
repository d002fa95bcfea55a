"""Graphs that declare fitting outputs, and return others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.runtime.outputs import check_output

MISFIT = r"model\.onnx is not the graph that the manifest describes"


class Lying:
    """A session whose outputs have lost their last axis."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Any, feeds: Any) -> Any:
        return [array[..., 0] for array in self._session.run(outputs, feeds)]


def test_shapes() -> None:
    array = np.zeros((2, 3), np.float32)
    assert check_output(array, [2, 3], Path("model.onnx")) is array
    for shape in ((3, 2), (2, 3, 1), (2,), ()):
        with pytest.raises(CorruptFileError, match=MISFIT):
            check_output(array, shape, Path("model.onnx"))


def test_an_encoder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1)
    assert isinstance(model, EncoderModel)
    assert model.embed("a film").shape == (32,)
    monkeypatch.setattr(model.backbone, "_session", Lying(model.backbone._session))
    with pytest.raises(CorruptFileError, match=MISFIT):
        model.embed("a film")
    with pytest.raises(CorruptFileError, match=MISFIT):
        model.task("topic")


def test_a_generative_model(writer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mpt_edge.load(writer_bundle, threads=1)
    assert isinstance(model, GenerativeModel)
    monkeypatch.setattr(model.backbone, "session", Lying(model.backbone.session))
    with pytest.raises(CorruptFileError, match=MISFIT):
        model.task("story")
