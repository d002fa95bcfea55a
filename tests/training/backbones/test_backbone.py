"""Properties of a backbone, and the content of its fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from mpt_edge.formats.manifest import Family, Pooling
from mpt_edge.training.backbones.backbone import vocabulary_size, weights_fingerprint
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from tests.support.checkpoints import WEIGHTS


def test_properties_of_a_local_folder(tiny: EncoderBackbone, tiny_folder: Path) -> None:
    assert (tiny.name, tiny.id, tiny.revision, tiny.license) == ("tiny-bert", "tiny-bert", None, None)
    assert (tiny.folder, tiny.pad_id, tiny.max_length) == (tiny_folder, 0, 48)
    assert (tiny.family, tiny.pooling, tiny.mask) == (Family.ENCODER, Pooling.MEAN, None)
    assert tiny.tokenizer_json == (tiny_folder / "tokenizer.json").read_bytes()
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert vocabulary_size(tiny.model) == 100


def test_fingerprint_is_the_same_for_another_file_format(tiny: EncoderBackbone, folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint == weights_fingerprint(tiny.model)


def test_fingerprint_is_the_same_inside_a_model_with_a_head(tiny: EncoderBackbone, folder: Path) -> None:
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    model.bert.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    model.save_pretrained(folder)
    assert any(key.startswith("bert.") for key in load_file(folder / WEIGHTS))
    assert load_encoder(str(folder)).fingerprint == tiny.fingerprint


@pytest.mark.parametrize(
    ("key", "changes"), [("pooler.dense.bias", False), ("encoder.layer.1.output.dense.bias", True)]
)
def test_fingerprint_changes_with_one_weight_and_not_with_the_pooler(
    tiny: EncoderBackbone, folder: Path, key: str, changes: bool
) -> None:
    weights = load_file(folder / WEIGHTS)
    weights[key][3] += 1e-3
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    assert (load_encoder(str(folder)).fingerprint != tiny.fingerprint) == changes
