"""Products with label vectors against plain PyTorch and numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from transformers import BertModel

import mpt_edge
from mpt_edge.formats.label_vectors import LabelVectors
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.model import Model
from mpt_edge.inference.numerics import unit
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import TEXTS
from tests.support.encoders import make_task
from tests.support.plain_bert import composed, mean_states

LABELS = ("sport", "law", "science")


def task_of(tiny: EncoderBackbone, shared: SharedPrompt, name: str, levels: int) -> TaskFile:
    task = make_task(tiny, shared, name, dict.fromkeys(LABELS, "text"))
    values = np.random.default_rng(levels).standard_normal((3, 33)).astype(np.float32)
    labels = LabelVectors.quantize(values[:, :32], values[:, 32] / 16, levels)
    return replace(task, head_type="label_vectors", label_texts=(), label_vectors=labels)


@pytest.fixture
def model(tiny_bundle: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path) -> Model:
    """Return the small encoder with tasks of three and 256 levels."""
    result = mpt_edge.load(tiny_bundle, threads=1)
    for task in (task_of(tiny, shared_prompt, "few", 3), task_of(tiny, shared_prompt, "many", 256)):
        task.save(tmp_path / task.name)
        result.add_task(tmp_path / task.name)
    return result


def expected_scores(
    bert: BertModel, tiny: EncoderBackbone, shared: SharedPrompt, task: TaskFile, text: str
) -> np.ndarray:
    """Return the probabilities of a text's labels, computed in torch and by hand."""
    assert task.label_vectors is not None
    levels, packed = task.label_vectors.levels, task.label_vectors.codes.astype(int)
    digits = [packed // levels**i % levels for i in range({3: 5, 256: 1}[levels])]
    numbers = np.stack(digits, axis=2).reshape(3, -1)[:, :32] + 0.5 - levels / 2
    matrix = numbers * task.label_vectors.steps.astype(np.float64)[:, None]
    embedded = unit(mean_states(bert, tiny, composed(task, shared), text, task.max_length))
    scores = matrix @ embedded + task.label_vectors.biases.astype(np.float64)
    return np.asarray(softmax(scores * task.scale))


@pytest.mark.parametrize("name", ["few", "many"])
def test_answers_are_those_of_plain_pytorch(
    model: Model, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, name: str
) -> None:
    task = model.task(name)
    result = [list(answer.scores.values()) for answer in task(TEXTS)]
    expected = [expected_scores(bert, tiny, shared_prompt, task.file, text) for text in TEXTS]
    np.testing.assert_allclose(result, expected, atol=1e-4)
    assert [answer.label for answer in task(TEXTS)] == [LABELS[int(np.argmax(row))] for row in expected]


def test_they_share_batches_with_other_tasks(model: Model) -> None:
    names = ["few", "sentiment", "many", "topic"]
    mixed = model.run([TEXTS[0]] * 4, tasks=names)
    for name, answer in zip(names, mixed, strict=True):
        assert answer.score == pytest.approx(model.task(name)(TEXTS[0]).score, abs=1e-5)


def test_selecting_reads_no_text(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(EncoderModel, "embed_under", read)
    model.drop_task("topic")
    with pytest.raises(AssertionError):
        model.task("topic")
    file = model.task("few").file
    assert model._compose(file).head.name == "label_vectors"
