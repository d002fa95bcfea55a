"""Label vectors: the loss, the first values, and a teacher's part, against plain formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from mpt_edge.errors import InputError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.similarity import TRAINING_SCALE, SimilarityObjective
from mpt_edge.training.quantized_labels import QuantizedLabels
from mpt_edge.training.schedule import TaskBatch
from tests.support.parts import assert_parts_add_up

TEXTS = ["a witty film", "the dull bad movie", "a great game of ball", "bad"]
LABELS = [1, 0, 1, 0]
WORDS = [["bad film"], ["good film"]]
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((2, 32)).astype(np.float32)
BATCH = TaskBatch(0, np.arange(4))


@pytest.fixture
def task() -> TaskData:
    rows = Examples(list(TEXTS), LABELS)
    return TaskData(Recipe("mood", "t", "v", max_length=16), ("low", "high"), rows, rows, None)


@pytest.fixture
def objective(tiny: EncoderBackbone, task: TaskData) -> LabelVectorObjective:
    result = LabelVectorObjective(tiny, task, WORDS)
    result.answer_by(lambda embeddings: embeddings @ torch.from_numpy(VECTORS).T)
    return result


def prompt(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_that_of_all_labels(objective: LabelVectorObjective, task: TaskData) -> None:
    embedded = objective.embeddings(prompt(), task.train).numpy()
    logits = TRAINING_SCALE * embedded @ VECTORS.T
    expected = -log_softmax(logits, axis=1)[range(4), LABELS].mean()
    loss = objective.loss(prompt(), BATCH, np.random.default_rng(0))
    assert loss.parts()["total"] == pytest.approx(expected, rel=1e-5)
    scores = objective.label_scores(prompt(), TEXTS)
    np.testing.assert_allclose(scores * TRAINING_SCALE, logits, atol=1e-4)


def test_gradients_reach_prompt_and_vectors(objective: LabelVectorObjective) -> None:
    values, labels = prompt().requires_grad_(), QuantizedLabels(torch.from_numpy(VECTORS), 2)
    objective.answer_by(labels)
    objective.loss(values, BATCH, np.random.default_rng(0)).total.backward()
    for gradient in (values.grad, labels.vectors.grad, labels.biases.grad):
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_parts_of_a_batch_add_up(objective: LabelVectorObjective) -> None:
    assert_parts_add_up(objective.distilled(Distillation(Teacher(prompt(1)))), prompt(), rows=4, size=3)


def test_means_count_texts_of_labels_as_four_examples(objective: LabelVectorObjective, task: TaskData) -> None:
    embedded = objective.embeddings(prompt(), task.train)
    texts = objective.embeddings(prompt(), Examples([group[0] for group in WORDS], [0, 1]))
    means = objective.label_means(prompt(), task.train, embedded)
    expected = [(embedded[1] + embedded[3] + 4 * texts[0]) / 6, (embedded[0] + embedded[2] + 4 * texts[1]) / 6]
    np.testing.assert_allclose(means.numpy(), torch.stack(expected).numpy(), atol=1e-6)


def test_a_teacher_answers_by_label_texts(
    tiny: EncoderBackbone, task: TaskData, objective: LabelVectorObjective
) -> None:
    teacher = objective.as_teacher()
    plain = SimilarityObjective(tiny, task, WORDS)
    np.testing.assert_array_equal(teacher.label_scores(prompt(), TEXTS), plain.label_scores(prompt(), TEXTS))
    taught = objective.distilled(Distillation(Teacher(prompt(1))))
    parts = taught.loss(prompt(), BATCH, np.random.default_rng(0)).parts()
    assert parts["logits"] > 0
    assert parts["hidden"] > 0


def test_recipes_with_typical_texts(task: TaskData) -> None:
    with pytest.raises(InputError, match=r"mood: label_examples adds label texts, .*; leave it out"):
        LabelVectorObjective.check_recipe(replace(task.recipe, label_examples=2))
