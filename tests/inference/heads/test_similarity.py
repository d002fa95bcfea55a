"""Similarities to label texts against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

import mpt_edge
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.heads.encoder_head import TextStates
from mpt_edge.inference.heads.similarity import Similarity
from mpt_edge.inference.model import Model
from mpt_edge.inference.numerics import unit
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import TEXTS, vector
from tests.support.heads import make_file
from tests.support.plain_bert import composed, mean_states


def reference(bert: BertModel, tiny: EncoderBackbone, task: TaskFile, prompt: np.ndarray, text: Text) -> np.ndarray:
    """Return similarities and scores of one text, computed in torch and by hand."""

    def embed(text: Text) -> np.ndarray:
        return unit(mean_states(bert, tiny, prompt, text, task.max_length))

    means = [np.mean([embed(text) for text in group], axis=0) for group in task.label_texts]
    similarities = np.array([mean @ embed(text) / np.linalg.norm(mean) for mean in means])
    powers = np.exp(similarities * task.scale)
    return np.concatenate([similarities, powers / powers.sum()])


@pytest.mark.parametrize("name", ["sentiment", "topic", "same", "longer"])
def test_answers_are_those_of_plain_pytorch(
    mixed: Model, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, name: str
) -> None:
    task = mixed.task(name)
    texts = [(text, "the film") for text in TEXTS] if task.file.inputs is Inputs.PAIR else TEXTS
    result = [vector(answer) for answer in task(texts)]
    prompt = composed(task.file, shared_prompt)
    expected = [reference(bert, tiny, task.file, prompt, text) for text in texts]
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)
    assert np.ptp(result, axis=0).max() > 1e-2  # the texts differ in their answers


def test_several_texts_of_a_label_are_averaged(
    tiny_bundle: Path, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1)
    texts = (("ball game", "sport"), ("vote",), ("atom", "cell", "star"))
    replace(model.task("topic").file, name="several", label_texts=texts).save(tmp_path / "t")
    task = model.add_task(tmp_path / "t")
    expected = reference(bert, tiny, task.file, composed(task.file, shared_prompt), TEXTS[0])
    np.testing.assert_allclose(vector(task(TEXTS[0])), expected, atol=1e-4)


def test_scores_do_not_depend_on_the_length_of_the_vector() -> None:
    labels = np.eye(2, 3, dtype=np.float32)
    head = Similarity(make_file("similarity", ("a", "b")), labels)
    pooled = np.array([0, 8, 6], np.float32)
    row = Encoded([2, 3], [0, 0], truncated=True)
    scores = head.scores(TextStates(row, pooled, pooled[None], pooled))
    np.testing.assert_allclose(scores, [0, 0.8], atol=1e-7)
    answer = head.answer(scores, row)
    assert (answer.label, answer.truncated) == ("b", True)
    assert dict(answer.similarities) == pytest.approx({"a": 0, "b": 0.8})
    assert answer.score == pytest.approx(1 / (1 + np.exp(-0.8)))
