"""Checkpoints in folders, damaged or changed for tests."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.support.encoders import save_tokenizer

WEIGHTS = "model.safetensors"


def save_checkpoint(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model with the tiny encoder's tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def change_config(folder: Path, **entries: object) -> None:
    """Change entries of ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def drop_weight(folder: Path, name: str) -> None:
    """Remove one tensor from the weights."""
    weights = load_file(folder / WEIGHTS)
    del weights[name]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def assert_one_sentence(error: Exception, *parts: str) -> None:
    """Check that a message is one line with all of ``parts``."""
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)
