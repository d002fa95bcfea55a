"""Options of ONNX Runtime, and graphs that do not belong to their manifest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.session import SessionOptions, open_session, ort_value


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 8 * (os.cpu_count() or 1) + 1], ids=str)
def test_impossible_threads(threads: Any) -> None:
    with pytest.raises(InputError, match=r"threads are not possible here; pass 1 to \d+, or leave it out"):
        SessionOptions(threads=threads)


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_threads_of_a_session(tiny_bundle: Path, threads: int | None) -> None:
    session = open_session(tiny_bundle / MODEL, SessionOptions(threads=threads))
    assert session.get_session_options().intra_op_num_threads == (threads or 0)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_unknown_provider_lists_those_present() -> None:
    with pytest.raises(InputError) as caught:
        SessionOptions(providers=["CPUExecutionProvider", "QuantumExecutionProvider"])
    assert str(caught.value).startswith("this ONNX Runtime has no provider 'QuantumExecutionProvider', only ")
    for name in onnxruntime.get_available_providers():
        assert name in str(caught.value)


@pytest.mark.parametrize("providers", ["CPUExecutionProvider", [], ()], ids=repr)
def test_providers_that_are_no_list(providers: Any) -> None:
    with pytest.raises(InputError, match="the providers are no list of names"):
        SessionOptions(providers=providers)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CorruptFileError, match=r"ONNX Runtime cannot load .*model\.onnx; export the bundle again"):
        open_session(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 3},
        {"heads": 2},
        {"head_size": 16},
        {"hidden_size": 64},
        {"token_types": False},
        {"mask": MaskToken(4, "[MASK]")},
        {"placement": Placement(position=PromptPosition.ALL_LAYERS)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_graph_of_another_manifest(tiny_bundle: Path, changes: dict[str, Any]) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        OnnxEncoder(tiny_bundle / MODEL, replace(manifest, **changes))


def test_ort_values_share_memory() -> None:
    array = np.zeros(3, np.float32)
    value = ort_value(array)
    array[1] = 5
    np.testing.assert_array_equal(value.numpy(), [0, 5, 0])
