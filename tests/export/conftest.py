"""Exports of the tiny encoder that take the graph from a bundle that is there already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge_export import bundle


@pytest.fixture
def quick(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the graph that was exported already; the rest of the export is real."""

    def copy(*arguments: object) -> None:
        shutil.copytree((tiny_bundle / MODEL).parent, Path(str(arguments[-1])).parent, dirs_exist_ok=True)

    monkeypatch.setattr(bundle, "export_encoder_graph", copy)


@pytest.fixture
def old(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle that is there before an export, with a file that only it has."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "out" / "old"))
    (folder / "tasks" / "retired.safetensors").write_text("only in the old bundle")
    return folder


@pytest.fixture
def vectors(tiny_vectors: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny encoder's prompt and tasks, to change."""
    return Path(shutil.copytree(tiny_vectors, tmp_path / "vectors"))
