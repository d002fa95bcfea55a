"""Options of ONNX Runtime, and graphs that do not belong to their manifest."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from mpt_edge.inference.runtime.graph_names import PAST, PRESENT, layer_names
from mpt_edge.inference.runtime.session import Session, SessionOptions, check_graph, open_session, ort_value
from mpt_edge.inference.text import Batch


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


def test_a_file_that_is_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CorruptFileError, match=r"ONNX Runtime cannot load .*model\.onnx; export the bundle again"):
        open_session(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def test_names_that_are_no_utf_8(tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a dimension, which ONNX Runtime returns as it is, and of an operator, which is in its message."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    graph, manifest = (folder / MODEL).read_bytes(), Bundle.open(folder).manifest
    for old, new, says in ((b"batch", b"b\xeetch", "is not the graph that"), (b"MatMul", b"M\xa0tMul", "cannot load")):
        assert old in graph
        (folder / MODEL).write_bytes(graph.replace(old, new))
        with pytest.raises(CorruptFileError, match=says):
            OnnxEncoder(folder / MODEL, manifest)
    assert capfd.readouterr() == ("", "")


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


def test_a_graph_that_fails_is_a_damaged_file(tiny_bundle: Path) -> None:
    """Of another vocabulary than its tokenizer, say."""
    backbone = OnnxEncoder(tiny_bundle / MODEL, Bundle.open(tiny_bundle).manifest, SessionOptions(threads=1))
    ids = np.full((1, 3), 10_000)
    with pytest.raises(CorruptFileError, match=r"the graph .*model\.onnx fails; export the bundle again"):
        backbone.request(Batch(ids, np.ones_like(ids), np.zeros_like(ids)))


@pytest.mark.parametrize("reason", ["Failed to allocate memory for requested buffer of size 9", ""])
def test_a_graph_without_enough_memory(tmp_path: Path, reason: str) -> None:
    class Failing:
        def run(self, *_: object) -> None:
            raise RuntimeError(reason) if reason else MemoryError

    with pytest.raises(MemoryError):
        Session(Failing(), tmp_path).run(["a"], {})


@pytest.mark.parametrize(("name", "kind"), [("input_ids", "tensor(int32)"), ("prompt", "tensor(float16)")])
def test_inputs_of_another_type(tiny_bundle: Path, name: str, kind: str) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    session = open_session(tiny_bundle / MODEL, SessionOptions(threads=1))

    class Typed:
        def get_inputs(self) -> list[Any]:
            values = [SimpleNamespace(name=v.name, type=v.type, shape=v.shape) for v in session.get_inputs()]
            return [SimpleNamespace(**vars(v) | {"type": kind}) if v.name == name else v for v in values]

        def get_outputs(self) -> Any:
            return session.get_outputs()

    past = layer_names(manifest.layers, PAST)
    others = ["input_ids", "attention_mask", "prompt", "token_type_ids"]
    check_graph(session, tiny_bundle, manifest, past, others, layer_names(manifest.layers, PRESENT))
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        check_graph(Typed(), tiny_bundle, manifest, past, others)
    with pytest.raises(CorruptFileError, match="is not the graph that the manifest describes"):
        check_graph(session, tiny_bundle, manifest, past, others, ["logits"])
