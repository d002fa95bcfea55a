"""Encoders as backbones: pooling, mask token and maximum length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel, GPT2Config, T5Config

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.manifest import MaskToken, Pooling
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone, load_encoder
from tests.support.checkpoints import assert_one_sentence


@pytest.mark.parametrize(
    "config", [GPT2Config(n_embd=8, n_layer=1, n_head=2), T5Config(d_model=8, num_layers=1)], ids=["gpt2", "t5"]
)
def test_generative_model_in_place_of_an_encoder(tmp_path: Path, config: GPT2Config | T5Config) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match="is a generative model, and this needs an encoder; use one of bert"
    ) as caught:
        load_encoder(str(tmp_path))
    assert_one_sentence(caught.value, str(tmp_path))


def test_loaded_weights_are_the_files(tiny: EncoderBackbone, tiny_folder: Path) -> None:
    expected = BertModel.from_pretrained(tiny_folder).eval()
    ids = torch.tensor([[2, 70, 71, 3]])
    with torch.no_grad():
        hidden, _ = tiny.model(ids, torch.ones_like(ids))
        assert torch.allclose(hidden, expected(ids).last_hidden_state, atol=1e-5)
    assert isinstance(AutoModel.from_pretrained(tiny_folder), BertModel)


def test_mask_token_of_a_model_with_a_masked_lm_head(folder: Path) -> None:
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    backbone = load_encoder(str(folder))
    assert backbone.mask == MaskToken(4, "[MASK]")
    assert backbone.model.masked is not None


def save_modules(folder: Path, pooling: dict[str, object] | None, *extra: str) -> None:
    kinds = ["Transformer", "Pooling", *extra]
    entries = [
        {"idx": i, "path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    if pooling is not None:
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32} | pooling))


@pytest.mark.parametrize(
    ("mode", "expected"), [("mean_tokens", Pooling.MEAN), ("cls_token", Pooling.CLS), ("max_tokens", Pooling.MAX)]
)
def test_pooling_of_a_sentence_transformer(folder: Path, mode: str, expected: Pooling) -> None:
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    save_modules(folder, {f"pooling_mode_{m}": m == mode for m in modes}, "Normalize")
    assert load_encoder(str(folder)).pooling is expected


@pytest.mark.parametrize(
    "on", [("mean_tokens", "max_tokens"), ("mean_sqrt_len_tokens",), ("cls_token", "weightedmean_tokens")]
)
def test_pooling_that_is_not_supported(folder: Path, on: tuple[str, ...]) -> None:
    save_modules(folder, {f"pooling_mode_{mode}": True for mode in on})
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, str(folder), f"pooling_mode_{on[0]}", "mean, cls or max")


def test_dense_layer_after_the_pooling_is_refused(folder: Path) -> None:
    save_modules(folder, {"pooling_mode_mean_tokens": True}, "Dense")
    with pytest.raises(UnsupportedModelError) as caught:
        load_encoder(str(folder))
    assert_one_sentence(caught.value, str(folder), "Dense")


def test_broken_sentence_transformers_file(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")
    with pytest.raises(CorruptFileError, match=r"modules\.json is not JSON"):
        load_encoder(str(folder))


@pytest.mark.parametrize(("setting", "expected"), [(32, 32), (512, 48), (None, 48)])
def test_maximum_length(folder: Path, setting: int | None, expected: int) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": setting}))
    assert load_encoder(str(folder)).max_length == expected
