"""Fixtures of the tests on data."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from tests.support.tables import ROWS, write_table


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the three splits of the toy recipe."""
    for split in ("train", "validation", "test"):
        write_table(tmp_path / f"{split}.jsonl", ROWS)
    return tmp_path
