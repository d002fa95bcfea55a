"""ByT5's tokenizer as tokenizer.json against transformers' own, and a ByT5 with it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from mpt_edge.formats.placement import Placement
from mpt_edge.inference.generation.streaming import TextStream, stop_check
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.objectives.generative_reading import open_texts
from tests.support.adapters import shake

TEXTS = [
    "a witty film",
    "Grüße, 日本語 😀\n\ttab",
    " lead  two ",
    "a</s>b",
    "<extra_id_0> is <extra_id_1>",
    "\x00ÿ",
    "<unk> </s> x",
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> GenerativeBackbone:
    folder = tmp_path_factory.mktemp("byt5") / "tiny-byt5"
    torch.manual_seed(0)
    sizes = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, initializer_factor=2.0))
    shake(model)
    model.save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    backbone = open_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone)
    return backbone


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(backbone: GenerativeBackbone, text: str) -> None:
    original = AutoTokenizer.from_pretrained(backbone.folder)
    (row,) = backbone.texts.encode([text], 100)
    assert row.ids == original(text).input_ids
    assert backbone.texts.tokenizer.decode(row.ids) == original.decode(row.ids, skip_special_tokens=True)
    (pair,) = backbone.texts.encode([(text, "b")], 100)
    assert pair.ids == original(text, "b").input_ids


def test_whole_characters_are_cut(backbone: GenerativeBackbone) -> None:
    """Ten tokens hold three characters of three bytes, and the end token."""
    row = backbone.texts.fit(None, "日本語日本語", 10)
    assert backbone.texts.tokenizer.decode(row.ids) == "日本語"
    assert (len(row.ids), row.truncated) == (10, True)
    assert len(backbone.texts.fit(None, "日本語日本語", 9).ids) == 7


def test_a_byte_that_is_no_character_is_skipped(backbone: GenerativeBackbone) -> None:
    """As in transformers; later tokens are streamed at once, and stop texts are recognized."""
    original, tokenizer = AutoTokenizer.from_pretrained(backbone.folder), backbone.texts.tokenizer
    ids = [*original("héllo", add_special_tokens=False).input_ids, 255 + 3]
    ids += original("wörld は長い。und so weiter", add_special_tokens=False).input_ids
    whole = original.decode(ids)
    assert tokenizer.decode(ids) == whole == "héllowörld は長い。und so weiter"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) == len(whole)
    for stop in ("は長", "。", "weiter"):
        cut, check = TextStream(tokenizer, stop=[stop]), stop_check(tokenizer, [stop])
        for count, token in enumerate(ids, 1):
            cut.push(token)
            assert check(ids[:count][-count:]) == cut.stopped, (stop, count)
            if cut.stopped:
                break
        assert cut.text == whole[: whole.index(stop)]


@torch.no_grad()
def test_first_token_is_that_of_transformers(backbone: GenerativeBackbone) -> None:
    model = T5ForConditionalGeneration.from_pretrained(backbone.folder).eval()
    rows = backbone.texts.encode(TEXTS[:3], 100)
    _, logits = open_texts(backbone, None, Placement(), rows)
    for row, result in zip(rows, logits, strict=True):
        expected = model(input_ids=torch.tensor([row.ids]), decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        assert torch.allclose(torch.from_numpy(result), expected, atol=1e-4)
