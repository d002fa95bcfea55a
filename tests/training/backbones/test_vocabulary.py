"""Tokens outside the embedding table: refused when a backbone is opened, or removed if no text needs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from tests.support.causal import CONFIGS
from tests.support.encoders import save_tokenizer
from tests.support.seq2seq import SIZES

#: Number of tokens of the tokenizer.
TOKENS = 76


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def saved(kind: str, size: int, **entries: object) -> Path:
        save_tokenizer(tmp_path)
        sizes = {"vocab_size": size, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        if kind == "bert":
            model: Any = BertModel(BertConfig(**sizes, intermediate_size=48))
        elif kind == "t5":
            model = T5ForConditionalGeneration(T5Config(**{**SIZES, "vocab_size": size}))
        else:
            config = type(CONFIGS[kind])(**{**CONFIGS[kind].to_dict(), "vocab_size": size})
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path)
        for name in ("config.json", "generation_config.json"):
            path = tmp_path / name
            if path.is_file():
                path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        return tmp_path

    return saved


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        open_backbone(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_a_tokenizer_with_more_tokens_than_the_model(save: Any, kind: str) -> None:
    message = refusal(save(kind, TOKENS - 1))
    assert f"ids up to {TOKENS - 1}, and its model has embeddings for ids 0 to {TOKENS - 2}; use the" in message


@pytest.mark.parametrize("size", [TOKENS, TOKENS + 20])
def test_an_embedding_table_as_large_as_the_tokenizer_or_larger(save: Any, size: int) -> None:
    folder = save("llama", size)
    assert open_backbone(str(folder)).tokenizer_json == (folder / "tokenizer.json").read_bytes()


def add(folder: Path, token: str, **settings: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([token], **settings)
    tokenizer.save_pretrained(folder)


def test_a_special_token_that_no_text_needs_is_removed(save: Any) -> None:
    """Gemma 3's tokenizer has one for an image, which is outside the table of the text model."""
    folder = save("llama", TOKENS)
    plain = open_backbone(str(folder))
    add(folder, "<image>", special_tokens=True)
    assert AutoTokenizer.from_pretrained(folder)("<image>", add_special_tokens=False).input_ids == [TOKENS]
    fitted = open_backbone(str(folder))
    words = ["a good film", "a bad <image>"]
    assert fitted.texts.encode(words, 30) == plain.texts.encode(words, 30)
    assert b"<image>" not in fitted.tokenizer_json


def test_an_added_token_that_texts_may_have(save: Any) -> None:
    folder = save("llama", TOKENS)
    add(folder, "mpt")
    assert f"ids up to {TOKENS}, and its model has embeddings" in refusal(folder)


def test_a_special_token_that_every_text_gets(save: Any) -> None:
    folder = save("llama", TOKENS)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [TOKENS + 4]
    settings["added_tokens"].append(settings["added_tokens"][0] | {"id": TOKENS, "content": "<end>"})
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert f"ids up to {TOKENS + 4}" in refusal(folder)


def test_padding_outside_the_table(save: Any) -> None:
    folder = save("llama", TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    assert f"padding token in {folder} has id {TOKENS}, and its model" in refusal(folder)


def test_an_encoder_is_checked_too(save: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="ids up to"):
        load_encoder(str(save("bert", 40)))


def test_end_tokens_outside_the_table_are_removed(save: Any) -> None:
    backbone = open_backbone(str(save("llama", TOKENS, eos_token_id=[50256, 3])))
    assert isinstance(backbone, GenerativeBackbone)
    assert backbone.eos_ids == (3,)
    assert backbone.model.logits(torch.zeros(1, 32)).shape == (1, TOKENS)


@pytest.mark.parametrize("stated", [50256, TOKENS, [-1, 50256]])
def test_no_end_token_inside_the_table(save: Any, stated: object) -> None:
    """A GPT-2 of a smaller vocabulary has the original's end token, unless its configuration names another."""
    message = refusal(save("gpt2", TOKENS, eos_token_id=stated))
    assert f"embeddings for ids 0 to {TOKENS - 1}; set eos_token_id in config.json" in message


@pytest.mark.parametrize("start", [-1, TOKENS])
def test_a_first_token_outside_the_table(save: Any, start: int) -> None:
    assert f"decoder_start_token_id is {start} in" in refusal(save("t5", TOKENS, decoder_start_token_id=start))
