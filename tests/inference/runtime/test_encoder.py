"""An exported encoder against plain PyTorch: cached and joint prompts, padding, and the inputs of graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.placement import Layout
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import TEXTS
from tests.support.plain_bert import hidden_states


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def backbone(tiny_bundle: Path) -> OnnxEncoder:
    return OnnxEncoder(tiny_bundle / MODEL, Bundle.open(tiny_bundle).manifest, SessionOptions(threads=1))


@pytest.mark.parametrize("name", ["sentiment", "longer"])
def test_cached_prompt_gives_the_hidden_states_of_plain_pytorch(
    mixed: Model, backbone: OnnxEncoder, bert: BertModel, tiny: EncoderBackbone, name: str
) -> None:
    prompt = mixed.task(name).prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.request(tiny.texts.pad(encoded), backbone.encode_prompt(prompt))
    bare = backbone.request(tiny.texts.pad(encoded))
    for i, row in enumerate(encoded):
        length = len(row.ids)
        expected = hidden_states(bert, prompt, row.ids, row.types)[1]
        np.testing.assert_allclose(hidden[i, :length], expected, atol=1e-4)
        without = hidden_states(bert, prompt[:0], row.ids, row.types)[1]
        np.testing.assert_allclose(bare[i, :length], without, atol=1e-4)
        assert np.abs(expected - without).max() > 0.1  # the prompt matters


def test_joint_request_is_full_attention_in_pytorch(
    model: Model, backbone: OnnxEncoder, bert: BertModel, tiny: EncoderBackbone
) -> None:
    prompt = model.task("topic").prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.joint_request(tiny.texts.pad(encoded), prompt)
    for i, row in enumerate(encoded):
        expected = hidden_states(bert, prompt, row.ids, row.types, Layout.JOINT)[1]
        np.testing.assert_allclose(hidden[i, : len(row.ids)], expected, atol=1e-4)
        assert np.abs(expected - hidden_states(bert, prompt, row.ids, row.types)[1]).max() > 1e-2


def test_cache_is_the_keys_and_values_of_the_prompt_alone(model: Model, backbone: OnnxEncoder) -> None:
    cache = backbone.encode_prompt(model.task("topic").prompt)
    assert sorted(cache) == [f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert {value.shape for value in cache.values()} == {(1, 4, 6, 8)}


@pytest.mark.parametrize("cached", [True, False])
def test_padding_on_either_side_changes_nothing(
    model: Model, backbone: OnnxEncoder, tiny: EncoderBackbone, cached: bool
) -> None:
    (row,) = tiny.texts.encode([("a witty film", "dull")], 16)
    length, width = len(row.ids), 13
    past = backbone.encode_prompt(model.task("topic").prompt) if cached else None
    alone = backbone.request(tiny.texts.pad([row]), past)[0]

    def padded(left: int) -> np.ndarray:
        ids, mask, types = (np.zeros((1, width), np.int64) for _ in range(3))
        position = slice(left, left + length)
        ids[0, position], mask[0, position], types[0, position] = row.ids, 1, row.types
        return backbone.request(Batch(ids, mask, types), past)[0, position]

    for left in (0, 2, width - length):
        np.testing.assert_allclose(padded(left), alone, atol=1e-5)


def test_padding_is_not_seen(model: Model, backbone: OnnxEncoder, tiny: EncoderBackbone) -> None:
    batch = tiny.texts.pad(tiny.texts.encode(["a witty film", "dull"], 16))
    cache = backbone.encode_prompt(model.task("topic").prompt)
    other = replace(batch, input_ids=np.where(batch.attention_mask == 1, batch.input_ids, 40))
    assert (other.input_ids != batch.input_ids).any()
    visible = batch.attention_mask == 1
    np.testing.assert_allclose(
        backbone.request(other, cache)[visible], backbone.request(batch, cache)[visible], atol=1e-6
    )
