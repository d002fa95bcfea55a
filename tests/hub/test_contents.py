"""Manifests as a repository holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import FileEntry, Manifest, Precision
from mpt_edge.hub.contents import as_published, choose_precision, other_graphs
from tests.support.hub import hash_of

INT8 = {"onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"}
FLOAT32 = {"onnx/model.onnx", "onnx/model.onnx_data"}


def with_int8(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Return the manifest of a bundle that has these files, too."""
    entries = {name: FileEntry(sha256=hash_of(data), size=len(data)) for name, data in files.items()}
    return replace(manifest, files={**manifest.files, **entries}, parity={**manifest.parity, "int8": {}})


def test_history_stays_and_the_digest_is_the_same(folder: Path, task_file: Callable[..., Path]) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file("topic", version=2), task_file("fresh"))
    manifest = bundle.manifest
    assert any(name.startswith("previous/") for name in manifest.files)
    published = as_published(manifest)
    assert published.digest == manifest.digest
    assert published.stored_paths == set(published.files)
    assert not any(name.startswith("previous/") for name in published.files)
    assert (published.changes, published.retired) == ((), ())
    assert published.releases["topic"]["version"] == 2
    assert as_published(published) == published


def test_one_precision(tiny_bundle: Path) -> None:
    exact = Bundle.open(tiny_bundle).manifest
    both = with_int8(exact, dict.fromkeys(INT8, b"x"))
    assert other_graphs(both, Precision.FLOAT32) == INT8
    assert other_graphs(both, Precision.INT8) == FLOAT32
    assert as_published(both, Precision.FLOAT32).digest == exact.digest  # as if it had been exported alone
    small = as_published(both, Precision.INT8)
    assert set(both.files) - set(small.files) == FLOAT32
    assert small.digest != both.digest
    assert as_published(exact, Precision.FLOAT32).digest == exact.digest


def test_one_of_three_precisions(tiny_bundle: Path) -> None:
    """Others go with their comparison; that of the kept one stays."""
    both = with_int8(Bundle.open(tiny_bundle).manifest, dict.fromkeys(INT8, b"x"))
    entry = FileEntry(sha256=hash_of(b"y"), size=1)
    every = replace(
        both,
        files={**both.files, "onnx/model_q4.onnx": entry, "onnx/model_q4.onnx_data": entry},
        parity={**both.parity, "int4": {"min_cosine": 0.95}},
    )
    small = as_published(every, Precision.INT4)
    assert {name for name in small.files if name.startswith("onnx/")} == {
        "onnx/model_q4.onnx",
        "onnx/model_q4.onnx_data",
    }
    assert "int8" not in small.parity
    assert small.parity["int4"] == {"min_cosine": 0.95}
    assert as_published(every, Precision.INT8).digest == as_published(both, Precision.INT8).digest
    assert choose_precision(small, None, "x") is Precision.INT4


def test_choice_of_a_precision(tiny_bundle: Path) -> None:
    exact = Bundle.open(tiny_bundle).manifest
    both = with_int8(exact, dict.fromkeys(INT8, b"x"))
    assert choose_precision(both, None, "x") is Precision.FLOAT32
    assert choose_precision(both, "int8", "x") is Precision.INT8
    with pytest.raises(InputError, match="owner/name has no int8 graph, only float32; choose one of these"):
        choose_precision(exact, "int8", "owner/name")
    none = replace(exact, files={name: entry for name, entry in exact.files.items() if name not in FLOAT32})
    with pytest.raises(CorruptFileError, match="lists no graph"):
        choose_precision(none, None, "owner/name")
