"""A small random BERT, exported with some tasks, for attacks on whole bundles. It needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacks.common import DONE, run_child
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.vectors import VectorFolder

#: Labels of the tasks, with their texts.
LABELS = {
    "sentiment": {"bad": "bad dull film", "good": "great witty film"},
    "topic": {"sport": "ball game", "law": "vote party", "science": "atom cell"},
}


def build_in_child(folder: Path) -> Path:
    """Build a bundle in another process, so that this one stays small, and return its folder."""
    code, message = run_child(lambda: build(folder))
    if code != DONE:
        raise RuntimeError(f"the small bundle cannot be built: {message}")
    return folder / "bundle"


def build(folder: Path) -> Path:
    """Build the bundle ``folder/bundle``, and return it."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils.logging import disable_progress_bar

    from mpt_edge.training.backbones.encoder_backbone import load_encoder
    from mpt_edge_export import ExportPlan, export_bundle
    from tests.support.encoders import LENGTH, make_task, save_tokenizer

    disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=48, initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    save_tokenizer(folder / "bert")
    backbone = load_encoder(str(folder / "bert"))
    values = np.random.default_rng(0).standard_normal((LENGTH, config.hidden_size)).astype(np.float16)
    shared = SharedPrompt("mpt", values, Placement(), backbone.fingerprint)
    vectors = VectorFolder(folder / "vectors")
    vectors.save(shared)
    for name, labels in LABELS.items():
        vectors.save(make_task(backbone, shared, name, labels))
    export_bundle(ExportPlan(backbone, [vectors.path], folder / "bundle"))
    return folder / "bundle"
