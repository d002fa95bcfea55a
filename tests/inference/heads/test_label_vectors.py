"""Products with label vectors against plain PyTorch and numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from transformers import BertModel

import mpt_edge
from mpt_edge.errors import MismatchError
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
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.standard_normal((32, 32)))[0][:8].astype(np.float16)


def vectors(width: int) -> LabelVectors:
    return LabelVectors.quantize(RNG.standard_normal((3, width)).astype(np.float32))


def task_of(tiny: EncoderBackbone, shared: SharedPrompt, name: str, width: int) -> TaskFile:
    task = make_task(tiny, shared, name, dict.fromkeys(LABELS, "text"))
    return replace(task, head_type="label_vectors", label_texts=(), label_vectors=vectors(width))


@pytest.fixture
def model(tiny_bundle: Path, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path) -> Model:
    """Return the small encoder with a task in full width, and one in a subspace with a prompt of its own."""
    result = mpt_edge.load(tiny_bundle, threads=1)
    narrow = task_of(tiny, shared_prompt, "narrow", 4)
    for task in (
        task_of(tiny, shared_prompt, "full", 32),
        replace(narrow, own_prompt=replace(shared_prompt, basis=BASIS)),
    ):
        task.save(tmp_path / task.name)
        result.add_task(tmp_path / task.name)
    return result


def expected_scores(
    bert: BertModel, tiny: EncoderBackbone, shared: SharedPrompt, task: TaskFile, text: str
) -> np.ndarray:
    """Return the probabilities of a text's labels, computed in torch and by hand."""
    assert task.label_vectors is not None
    matrix = task.label_vectors.values / 127 * task.label_vectors.scales.astype(np.float64)[:, None]
    matrix = matrix if matrix.shape[1] == 32 else matrix @ BASIS[: matrix.shape[1]]
    embedded = unit(mean_states(bert, tiny, composed(task, shared), text, task.max_length))
    return np.asarray(softmax(matrix @ embedded * task.scale))


@pytest.mark.parametrize("name", ["full", "narrow"])
def test_answers_are_those_of_plain_pytorch(
    model: Model, bert: BertModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, name: str
) -> None:
    task = model.task(name)
    result = [list(answer.scores.values()) for answer in task(TEXTS)]
    expected = [expected_scores(bert, tiny, shared_prompt, task.file, text) for text in TEXTS]
    np.testing.assert_allclose(result, expected, atol=1e-4)
    assert [answer.label for answer in task(TEXTS)] == [LABELS[int(np.argmax(row))] for row in expected]


def test_they_share_batches_with_other_tasks(model: Model) -> None:
    names = ["full", "sentiment", "narrow", "topic"]
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
    file = model.task("full").file
    assert model._compose(file).head.name == "label_vectors"


@pytest.mark.parametrize(("basis", "found"), [(None, "none"), (BASIS[:3], "one of 3")])
def test_a_prompt_without_their_basis(
    model: Model, shared_prompt: SharedPrompt, tmp_path: Path, basis: np.ndarray | None, found: str
) -> None:
    file = replace(model.task("narrow").file, own_prompt=replace(shared_prompt, basis=basis))
    file.save(tmp_path / "other")
    with pytest.raises(MismatchError, match=f"need a basis of 4 directions, and its prompt has {found}"):
        model.add_task(tmp_path / "other")
