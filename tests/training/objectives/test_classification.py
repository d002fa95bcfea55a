"""A task's evaluation from its labels' scores alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.similarity import SimilarityObjective


class Fixed(SimilarityObjective):
    """Scores that each text states itself."""

    def label_scores(self, prompt: torch.Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        return np.array([[0.5, 0.1] if "bad" in text else [0.1, 0.5] for text in texts], np.float32)


@pytest.fixture
def objective(tiny: EncoderBackbone) -> Fixed:
    validation = Examples(["a bad film", "a film", "bad", "a game"], [0, 1, 0, 1])
    test = Examples(["bad", "a bad game", "law"], [0, 1, 1])
    task = TaskData(Recipe("mood", "t", "v", metric="macro_f1"), ("low", "high"), validation, validation, test)
    return Fixed(tiny, task, [["bad"], ["good"]])


def test_evaluation(objective: Fixed) -> None:
    evaluation = objective.evaluate(torch.zeros(1, 32))
    assert evaluation.metrics["validation"]["accuracy"] == 1
    assert (evaluation.metrics["test"]["accuracy"], evaluation.metrics["test"]["examples"]) == (0.6667, 3)
    score = softmax(np.array([[0.5, 0.1]]) * evaluation.scale)[0, 0]
    assert evaluation.reference_example == {
        "text": "a bad film",
        "label": "low",
        "score": pytest.approx(score, abs=1e-5),
    }
    assert evaluation.generation == {}


def test_score_is_the_recipes_metric(objective: Fixed) -> None:
    assert objective.data.test is not None
    expected = (2 * 1 / (2 + 1) + 2 * 1 / (2 + 1)) / 2  # F1 of both labels
    assert objective.score(None, objective.data.test) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a bad film" * 20, "bad", "a film"], "bad"), (["bad" * 90, "a film" * 40, "bad" * 80], "a film" * 40)],
    ids=["the first short one", "the shortest"],
)
def test_the_reference_example_is_short(tiny: EncoderBackbone, texts: list[str], expected: str) -> None:
    examples = Examples(list(texts), [0, 0, 1])
    data = TaskData(Recipe("t", "t", "v", max_length=16), ("low", "high"), examples, examples, None)
    evaluation = Fixed(tiny, data, [["bad"], ["good"]]).evaluate(torch.zeros(2, 32))
    assert evaluation.reference_example["text"] == expected
    assert evaluation.reference_example["label"] == ("low" if "bad" in expected else "high")
