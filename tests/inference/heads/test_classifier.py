"""Saved classification heads: their logits, and tasks that they do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import MismatchError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Placement
from mpt_edge.inference.heads.classifier import Classifier
from mpt_edge.inference.heads.encoder_head import TextStates
from mpt_edge.inference.text import Encoded
from tests.support.heads import compose, linear_head, make_file

ROW = Encoded([2, 3], [0, 0], truncated=True)


def prepared(scale: float = 1.0) -> Classifier:
    file = make_file("classifier", ("a", "b", "c"), scale=scale)
    return Classifier.prepare(compose(file, linear_head(3)), None)  # type: ignore[arg-type]


def test_label_of_logits() -> None:
    answer = prepared().answer(np.array([0.0, 2.0, 1.0], np.float32), ROW)
    assert (answer.label, answer.truncated, dict(answer.similarities)) == ("b", True, {})
    assert answer.score == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_scores_are_of_scaled_logits() -> None:
    answer = prepared(scale=3.0).answer(np.array([0, 1, -100], np.float32), ROW)
    assert answer.score == pytest.approx(1 / (1 + np.exp(-3)))


def test_logits_are_of_the_first_position() -> None:
    first, others = np.array([2.0], np.float32), np.full((2, 1), 9, np.float32)
    np.testing.assert_array_equal(prepared().scores(TextStates(ROW, first, others, others[0])), [0, 2, 4])


@pytest.mark.parametrize(
    ("outputs", "placement", "says"),
    [
        (None, None, "'t' answers by a head of 3 outputs, and its prompt has none; import the adapter again"),
        (2, None, "'t' answers by a head of 3 outputs, and its prompt has one of 2"),
        (3, Placement(), "the first virtual token, which sees no text in the prefix layout; use it in the joint"),
    ],
)
def test_prompts_that_do_not_suit(outputs: int | None, placement: Placement | None, says: str) -> None:
    file, head = make_file("classifier", ("a", "b", "c")), linear_head(outputs) if outputs else None
    task = compose(file, head, placement) if placement else compose(file, head)
    with pytest.raises(MismatchError, match=says):
        Classifier.prepare(task, None)  # type: ignore[arg-type]


def test_a_task_that_leaves_its_head_to_the_shared_prompt(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    task = replace(bundle.task("topic"), name="headless", head_type="tokens", label_texts=())
    task.save(tmp_path / "headless.safetensors")
    bundle.install_untested(tmp_path / "headless.safetensors")
    with pytest.raises(MismatchError, match="'headless' answers by a head of 3 outputs, and its prompt has none"):
        mpt_edge.load(folder).task("headless")
