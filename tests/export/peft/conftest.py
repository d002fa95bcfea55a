"""A tiny BERT with an adapter that PEFT made on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from tests.support import adapters


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> EncoderBackbone:
    """Return the base model. Do not change its folder; copy it."""
    return load_encoder(str(adapters.save_base("bert", tmp_path_factory.mktemp("bert") / "tiny-bert")))


@pytest.fixture
def adapter(bert: EncoderBackbone, tmp_path: Path) -> Path:
    """Return a multitask adapter of a sequence classifier, in a folder whose name is no task name."""
    adapters.make_adapter(bert.folder, "SEQ_CLS", tmp_path / "my adapter!")
    return tmp_path / "my adapter!"
