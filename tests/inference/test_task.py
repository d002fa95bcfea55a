"""One selected task: lists and single texts, embeddings, raw scores, and its representation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.model import Model
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import LONG, TEXTS, assert_same
from tests.support.plain_bert import composed, mean_states


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


def test_list_in_list_out(model: EncoderModel) -> None:
    task = model.task("topic")
    single = task(TEXTS[0])
    assert isinstance(single, Prediction)
    many = task(TEXTS)
    assert isinstance(many, list)
    assert_same(many, [task(text) for text in TEXTS])
    assert_same(task([TEXTS[0]]), [single])
    assert task([]) == []
    assert model.run([], []) == []
    assert_same(model.run(TEXTS, "topic"), many)
    assert_same(model.run(tuple(TEXTS), ["topic"] * 5), many)


def test_task_attributes(model: EncoderModel, shared_prompt: SharedPrompt) -> None:
    task = model.task("topic")
    assert (task.name, task.labels, task.file.inputs) == ("topic", ("sport", "law", "science"), Inputs.TEXT)
    assert repr(task) == "Task('topic', similarity, 3 labels)"
    np.testing.assert_array_equal(task.prompt, compose(shared_prompt.values, task.file.u, task.file.v))
    assert model.tasks == ["same", "sentiment", "topic"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["topic", "longer"])
def test_embeddings_are_those_of_plain_pytorch(
    mixed: Model, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, name: str, normalize: bool
) -> None:
    """Mean pooling under the task's prompt."""
    task = mixed.task(name)
    prompt = composed(task.file, shared_prompt)
    expected = np.stack([mean_states(bert, tiny, prompt, text, 16) for text in TEXTS])
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True) if normalize else expected
    result = task.embed(TEXTS, normalize=normalize)
    assert (result.shape, result.dtype) == ((5, 32), np.float32)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    single = task.embed(TEXTS[0], normalize=normalize)
    assert single.shape == (32,)
    np.testing.assert_allclose(single, expected[0], atol=1e-4)
    assert np.abs(mixed.embed(TEXTS, normalize=normalize) - result).max() > 1e-2  # the prompt matters


def test_embeddings_of_pairs_and_long_texts(model: Model) -> None:
    assert model.task("same").embed(("good film", "bad")).shape == (32,)
    assert model.task("same").embed([("good film", "bad"), ("a", "b")]).shape == (2, 32)
    assert model.task("topic").embed([]).shape == (0, 32)
    np.testing.assert_allclose(
        model.task("topic").embed(LONG), model.task("topic").embed(" ".join(LONG.split()[:14])), atol=1e-6
    )


def test_scores_are_the_similarities(model: Model) -> None:
    task = model.task("topic")
    for scores, answer in zip(task.scores(TEXTS), task(TEXTS), strict=True):
        assert scores.shape == (3,)
        np.testing.assert_allclose(scores, list(answer.similarities.values()), atol=1e-6)
    assert task.scores([]) == []


def test_top_k(model: Model) -> None:
    answer = model.task("topic")(TEXTS[0])
    assert answer.top_k(1) == [(answer.label, answer.score)]
    best = [score for _, score in answer.top_k(3)]
    assert best == sorted(best, reverse=True)
    assert sum(best) == pytest.approx(1)


def test_tasks_without_text_do_not_stream(model: Model) -> None:
    with pytest.raises(InputError, match="'topic' generates no text; call it instead"):
        model.task("topic").stream("a film")


def test_generative_tasks_have_no_vectors(writer_bundle: Path) -> None:
    task = mpt_edge.load(writer_bundle, threads=1).task("mood")
    with pytest.raises(InputError, match="has no embeddings"):
        task.embed("The cat")
    with pytest.raises(InputError, match="'mood' is a task of a generative model, which has no such scores"):
        task.scores(["The cat"])
