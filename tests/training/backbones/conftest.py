"""Fixtures of the backbones' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the small encoder's folder, to change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
