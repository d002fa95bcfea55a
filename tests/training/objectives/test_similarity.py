"""Similarity to label texts: the loss, and a teacher's part of it, against plain formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import BertModel

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.formats.taskfile import Side
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Distillation, Teacher
from mpt_edge.training.objectives.similarity import TRAINING_SCALE, SimilarityObjective
from mpt_edge.training.schedule import TaskBatch
from tests.support.parts import assert_parts_add_up

TEXTS = ["a witty film", "the dull bad movie", "a great game of ball", "bad"]
LABELS = [1, 0, 1, 0]
WORDS = [["bad film"], ["good film"]]


@pytest.fixture
def task() -> TaskData:
    rows = Examples(list(TEXTS), LABELS)
    return TaskData(Recipe("mood", "t", "v", max_length=16), ("low", "high"), rows, rows, None)


@pytest.fixture
def batch() -> TaskBatch:
    return TaskBatch(0, np.arange(4))


def prompt(seed: int) -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


def test_a_teacher_that_agrees_adds_nothing(tiny: EncoderBackbone, task: TaskData, batch: TaskBatch) -> None:
    alone = SimilarityObjective(tiny, task, WORDS).loss(prompt(0), batch, np.random.default_rng(0))
    taught = SimilarityObjective(tiny, task, WORDS, Distillation(Teacher(prompt(0))))
    loss = taught.loss(prompt(0), batch, np.random.default_rng(0))
    assert loss.parts()["total"] == pytest.approx(alone.parts()["total"], abs=1e-6)
    assert alone.parts() | {"total": 0, "task": 0} == {"task": 0, "logits": 0, "hidden": 0, "total": 0}


def test_recipes_that_cut_texts_on_the_left(task: TaskData) -> None:
    """The device reads texts of this head type from their beginning."""
    with pytest.raises(
        InputError, match=r"mood: a task that answers by similarity reads .*; leave truncation_side out"
    ):
        SimilarityObjective.check_recipe(replace(task.recipe, truncation_side=Side.LEFT))


@pytest.mark.parametrize("hidden", [True, False])
def test_the_parts_add_up_to_equation_5(tiny: EncoderBackbone, task: TaskData, batch: TaskBatch, hidden: bool) -> None:
    taught = SimilarityObjective(
        tiny, task, WORDS, Distillation(Teacher(prompt(1)), weight=0.9, temperature=2.0, hidden=hidden)
    )
    trained = prompt(0).requires_grad_()
    loss = taught.loss(trained, batch, np.random.default_rng(0))
    parts = loss.parts()
    assert parts["logits"] > 0
    assert (parts["hidden"] > 0) is hidden
    assert parts["total"] == pytest.approx(parts["task"] + 0.9 * (parts["logits"] + parts["hidden"]), rel=1e-6)
    loss.total.backward()
    assert trained.grad is not None
    assert float(trained.grad.abs().sum()) > 0
    assert not taught.distillation.teacher.prompt.requires_grad


def test_cross_entropy_is_that_of_texts_read_one_by_one(
    tiny: EncoderBackbone, task: TaskData, batch: TaskBatch
) -> None:
    """One text a call, without padding, labels in the task's order: batching must not change the loss."""
    given = prompt(3)

    @torch.no_grad()
    def embed(text: str) -> np.ndarray:
        ids = torch.tensor([tiny.texts.encode([text], 16)[0].ids])
        past = tiny.model.encode_prompt(given[None])
        hidden, _ = tiny.model(ids, torch.ones(1, 5 + ids.shape[1], dtype=torch.long), past=past)
        pooled = hidden[0].mean(0).numpy()
        return pooled / np.linalg.norm(pooled)

    logits = np.stack([embed(text) for text in TEXTS]) @ np.stack([embed(group[0]) for group in WORDS]).T
    expected = -log_softmax(TRAINING_SCALE * logits, 1)[range(4), LABELS].mean()
    result = SimilarityObjective(tiny, task, WORDS).loss(given, batch, np.random.default_rng(0))
    assert float(result.task) == pytest.approx(expected, abs=1e-4)


def test_sampled_labels_hold_all_targets(tiny: EncoderBackbone) -> None:
    """With more labels than a step reads, each example's target is still its own label."""
    count = 60
    rows = Examples([TEXTS[i % 4] for i in range(count)], list(range(count)))
    many = TaskData(Recipe("many", "t", "v", max_length=16), tuple(map(str, range(count))), rows, rows, None)
    words = [[f"{TEXTS[i % 4]} {chr(97 + i % 26)} {chr(97 + i // 26)}"] for i in range(count)]
    objective = SimilarityObjective(tiny, many, words)
    chosen = np.array([57, 2, 31, 12])
    loss = objective.loss(prompt(0), TaskBatch(0, chosen), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    _, labels = objective._labels.sample(chosen, rng)
    assert set(chosen) <= set(labels.tolist())
    assert len(labels) == 48
    scores = objective.label_scores(prompt(0), [TEXTS[i % 4] for i in chosen])[:, labels] * TRAINING_SCALE
    columns = [int(np.flatnonzero(labels == target)[0]) for target in chosen]
    assert float(loss.task) == pytest.approx(-log_softmax(scores, 1)[range(4), columns].mean(), abs=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_parts_of_a_batch_add_up_to_it_over_sampled_labels(tiny: EncoderBackbone, size: int) -> None:
    """More labels than a step reads: parts draw the same ones, and hidden states count by tokens."""
    names = tuple(f"label {i}" for i in range(60))
    texts = ["a witty film " * (1 + i) for i in range(4)]
    rows = Examples(texts, [3, 50, 7, 21])
    data = TaskData(Recipe("many", "t", "v", max_length=32), names, rows, rows, None)
    words = ["witty", "film", "dull", "bad", "movie", "great", "game", "ball"]
    meanings = [[f"{first} {second}"] for first in words for second in words][: len(names)]
    objective = SimilarityObjective(tiny, data, meanings, Distillation(Teacher(prompt(1))))
    assert_parts_add_up(objective, prompt(0), 4, size)


def test_joint_layout_reads_prompt_and_text_as_transformers_does(
    tiny: EncoderBackbone, tiny_folder: Path, task: TaskData, batch: TaskBatch
) -> None:
    """The reference is an unchanged BertModel whose encoder gets virtual tokens and embedded text in one."""
    given = prompt(3)
    reference = BertModel.from_pretrained(tiny_folder).eval()

    @torch.no_grad()
    def embed(text: str) -> np.ndarray:
        ids = torch.tensor([tiny.texts.encode([text], 16)[0].ids])
        rows = torch.cat([given[None], reference.embeddings(ids)], dim=1)
        pooled = reference.encoder(rows).last_hidden_state[0, len(given) :].mean(0).numpy()
        return pooled / np.linalg.norm(pooled)

    logits = np.stack([embed(text) for text in TEXTS]) @ np.stack([embed(group[0]) for group in WORDS]).T
    expected = -log_softmax(TRAINING_SCALE * logits, 1)[range(4), LABELS].mean()
    objective = SimilarityObjective(tiny, task, WORDS, placement=Placement(Layout.JOINT))
    result = objective.loss(given, batch, np.random.default_rng(0))
    assert float(result.task) == pytest.approx(expected, abs=1e-4)
    assert np.abs(objective.label_scores(given, TEXTS) - logits).max() < 1e-5
    assert objective.identity() != SimilarityObjective(tiny, task, WORDS).identity()
