"""What the exported graph and the readouts compute, against plain PyTorch and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.model import Model
from mpt_edge.inference.numerics import label_embeddings, pool, softmax, unit
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.prompt_cache import stack
from mpt_edge.inference.text import Batch, Encoded, Text, TextEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import TEXTS, vector

Parts = tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def backbone(tiny_bundle: Path) -> OnnxEncoder:
    return OnnxEncoder(tiny_bundle / MODEL, Bundle.open(tiny_bundle).manifest, threads=1)


# The independent reference: transformers' own BertModel and attention, one explicit mask, no cache.


@pytest.fixture(scope="module")
def bert(tiny_folder: Path) -> BertModel:
    return BertModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()


def reference(bert: BertModel, prompt: np.ndarray, ids: list[int], types: list[int], layout: str = "prefix") -> Parts:
    """Run prompt rows and one text's tokens through plain BERT layers; return both hidden states."""
    rows, total = len(prompt), len(prompt) + len(ids)
    with torch.no_grad():
        embedded = bert.embeddings(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        hidden = torch.cat([torch.from_numpy(prompt)[None], embedded], dim=1)
        mask = torch.zeros(1, 1, total, total)
        if layout == "prefix":
            mask[:, :, :rows, rows:] = torch.finfo(torch.float32).min  # prompt rows see no text
        for layer in bert.encoder.layer:
            output = layer(hidden, attention_mask=mask)
            hidden = output[0] if isinstance(output, tuple) else output
    return hidden[0, :rows].numpy(), hidden[0, rows:].numpy()


def reference_answer(
    bert: BertModel, tiny: EncoderBackbone, task: TaskFile, shared: SharedPrompt, text: Text
) -> np.ndarray:
    """Return similarities and scores of one text, computed in torch and by hand."""
    values = shared.values if task.own_prompt is None else task.own_prompt
    prompt = (values.astype(np.float64) * np.outer(task.u.astype(np.float64), task.v.astype(np.float64))).astype(
        np.float32
    )

    def embed(text: Text) -> np.ndarray:
        (row,) = tiny.texts.encode([text], task.max_length)
        mean = reference(bert, prompt, row.ids, row.types)[1].mean(0)
        return mean / np.linalg.norm(mean)

    means = [np.mean([embed(text) for text in group], axis=0) for group in task.label_texts]
    similarities = np.array([mean @ embed(text) / np.linalg.norm(mean) for mean in means])
    powers = np.exp(similarities * task.scale)
    return np.concatenate([similarities, powers / powers.sum()])


@pytest.mark.parametrize("name", ["sentiment", "topic", "same", "longer"])
def test_answers_are_those_of_plain_pytorch(
    mixed: Model, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, name: str
) -> None:
    task = mixed.task(name)
    texts = [(text, "the film") for text in TEXTS] if task.kind == "pair" else TEXTS
    found = [vector(answer) for answer in task(texts)]
    expected = [reference_answer(bert, tiny, task.file, shared_prompt, text) for text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.ptp(found, axis=0).max() > 1e-2  # the texts differ in their answers


@pytest.mark.parametrize("name", ["sentiment", "longer"])
def test_cached_prompt_gives_plain_pytorchs_hidden_states(
    mixed: Model, backbone: OnnxEncoder, bert: BertModel, tiny: EncoderBackbone, name: str
) -> None:
    prompt = mixed.task(name).prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.request(tiny.texts.pad(encoded), backbone.encode_prompt(prompt))
    bare = backbone.request(tiny.texts.pad(encoded))
    for i, row in enumerate(encoded):
        length = len(row.ids)
        expected = reference(bert, prompt, row.ids, row.types)[1]
        np.testing.assert_allclose(hidden[i, :length], expected, atol=1e-4)
        without = reference(bert, prompt[:0], row.ids, row.types)[1]
        np.testing.assert_allclose(bare[i, :length], without, atol=1e-4)
        assert np.abs(expected - without).max() > 0.1  # the prompt matters


def test_joint_request_is_full_attention_in_pytorch(
    model: Model, backbone: OnnxEncoder, bert: BertModel, tiny: EncoderBackbone
) -> None:
    prompt = model.task("topic").prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.joint_request(tiny.texts.pad(encoded), prompt)
    for i, row in enumerate(encoded):
        expected = reference(bert, prompt, row.ids, row.types, "joint")[1]
        np.testing.assert_allclose(hidden[i, : len(row.ids)], expected, atol=1e-4)
        assert np.abs(expected - reference(bert, prompt, row.ids, row.types)[1]).max() > 1e-2


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
        place = slice(left, left + length)
        ids[0, place], mask[0, place], types[0, place] = row.ids, 1, row.types
        return backbone.request(Batch(ids, mask, types), past)[0, place]

    for left in (0, 2, width - length):
        np.testing.assert_allclose(padded(left), alone, atol=1e-5)


def test_what_stands_in_padding_is_not_seen(model: Model, backbone: OnnxEncoder, tiny: EncoderBackbone) -> None:
    batch = tiny.texts.pad(tiny.texts.encode(["a witty film", "dull"], 16))
    cache = backbone.encode_prompt(model.task("topic").prompt)
    other = replace(batch, input_ids=np.where(batch.attention_mask == 1, batch.input_ids, 40))
    assert (other.input_ids != batch.input_ids).any()
    visible = batch.attention_mask == 1
    np.testing.assert_allclose(
        backbone.request(other, cache)[visible], backbone.request(batch, cache)[visible], atol=1e-6
    )


def test_stack_pads_and_masks_shorter_prompts(mixed: Model, backbone: OnnxEncoder) -> None:
    caches = [backbone.encode_prompt(mixed.task(name).prompt) for name in ("topic", "longer")]
    joined, mask = stack(caches)
    np.testing.assert_array_equal(mask, [[1] * 6 + [0] * 5, [1] * 11])
    for name, value in joined.items():
        np.testing.assert_array_equal(value[0, :, :6], caches[0][name][0])
        np.testing.assert_array_equal(value[1], caches[1][name][0])


def test_pool() -> None:
    hidden = np.array([[[3.0, 4.0], [5.0, 12.0], [99.0, 99.0]], [[7.0, 7.0], [0.0, 2.0], [1.0, 0.0]]], np.float32)
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    by_hand = {
        "mean": [[4, 8], [0.5, 1]],
        "max": [[5, 12], [1, 2]],
        "cls": [[3, 4], [0, 2]],
    }
    for how, expected in by_hand.items():
        vectors = np.array(expected, np.float32)
        np.testing.assert_allclose(
            pool(hidden, mask, how), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6
        )


def test_unit_and_label_embeddings() -> None:
    np.testing.assert_array_equal(unit(np.array([[0, 0], [3, 4]], np.float32)), np.float32([[0, 0], [0.6, 0.8]]))
    texts = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(label_embeddings(texts, [0, 0, 1], 2), [[half, half], [0, -1]], rtol=1e-6)


def test_softmax() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0], [5.0, 5.0]])), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_array_equal(softmax(np.array([1e5, 0.0, -1e5], np.float32)), [1, 0, 0])


def test_encoder_of_the_bundle_is_the_trainings(model: Model, tiny: EncoderBackbone) -> None:
    texts = TextEncoder(model.bundle.tokenizer())
    assert texts.encode(TEXTS, 8) == tiny.texts.encode(TEXTS, 8)
    assert isinstance(texts.encode(["a"], 8)[0], Encoded)
