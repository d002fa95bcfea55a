"""Embeddings against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

import mpt_edge
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.inference.answers import Embedding, Prediction
from mpt_edge.inference.heads.base import Display
from mpt_edge.inference.task import Task
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import LONG, TEXTS
from tests.support.plain_bert import composed, mean_states


@pytest.fixture
def task(tiny_bundle: Path, tmp_path: Path) -> Task[Embedding]:
    model = mpt_edge.load(tiny_bundle, threads=1)
    file = replace(model.task("topic").file, name="vector", head_type="embedding", labels=(), label_texts=())
    file.save(tmp_path / "t")
    model.add_task(tmp_path / "t")
    return model.task("vector", answers=Embedding)


def test_vectors_are_those_of_plain_pytorch(
    task: Task[Embedding], bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt
) -> None:
    prompt = composed(task.file, shared_prompt)
    for text, answer in zip(TEXTS, task(TEXTS), strict=True):
        expected = mean_states(bert, tiny, prompt, text, 16)
        assert answer.vector.dtype == np.float32
        np.testing.assert_allclose(answer.vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert task(LONG).truncated


def test_answers_scores_and_embeddings_are_one(task: Task[Embedding]) -> None:
    vectors = np.stack([answer.vector for answer in task(TEXTS)])
    np.testing.assert_allclose(task.embed(TEXTS), vectors, atol=1e-6)
    np.testing.assert_allclose(np.stack(task.scores(TEXTS)), vectors, atol=1e-6)


def test_type(task: Task[Embedding]) -> None:
    assert task.labels == ()
    assert task.head.display is Display.PHRASE
    with pytest.raises(mpt_edge.MismatchError, match="'vector' answers with Embedding, not Prediction"):
        task._model.task("vector", answers=Prediction)
