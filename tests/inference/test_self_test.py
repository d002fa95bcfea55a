"""The self test: a task answers its reference example, and another answer is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.manifest import Precision
from mpt_edge.inference.answers import Embedding, Prediction, Span, Tagging, TokenLabel
from mpt_edge.inference.model import Model
from mpt_edge.inference.self_test import TOLERANCES, record_example, self_test
from mpt_edge.inference.task import Task

MakeTask = Callable[..., Path]


def stub(answer: object, **example: object) -> Any:
    """Return a task that gives one answer, with an example."""

    class Stub:
        name = "stub"
        file = SimpleNamespace(reference_example={"text": "a", "label": "x", "score": 0.5} | example)

        def __call__(self, _: object) -> object:
            return answer

    return Stub()


def test_recorded_example_is_answered(tiny_model: Model, writer_bundle: Path) -> None:
    writer = mpt_edge.load(writer_bundle, threads=1)
    for model in (tiny_model, writer):
        for name in model.bundle.task_names:
            task = model.task(name)
            example = record_example(task)
            assert set(example) >= {"text", "label", "score"}
            file = replace(task.file, reference_example=example)
            again: Task[Any] = Task(model, model._compose(file))
            self_test(again, Precision.FLOAT32)
            wrong = replace(file, reference_example=example | {"label": "another text"})
            with pytest.raises(CorruptFileError, match="answers its reference example with"):
                self_test(Task(model, model._compose(wrong)), Precision.FLOAT32)


@pytest.mark.parametrize("precision", list(Precision))
def test_tolerance(precision: Precision) -> None:
    limit = TOLERANCES[precision]
    for sign in (-1, 1):
        self_test(stub(Prediction(task="stub", label="x", score=0.5 + sign * (limit - 0.001))), precision)
        with pytest.raises(CorruptFileError, match=r"instead of x \(0\.500\)"):
            self_test(stub(Prediction(task="stub", label="x", score=0.5 + sign * (limit + 0.001))), precision)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "answer",
    [
        Prediction(task="stub", label="x", score=0.5, scores={"x": 0.5, "y": NAN}),
        Prediction(task="stub", label="x", score=NAN),
        Span(task="stub", text="x", score=INF),
        Tagging(task="stub", tokens=(TokenLabel("a", 0, 1, "x", 0.5), TokenLabel("b", 1, 2, "", NAN))),
        Embedding(task="stub", vector=np.array([0.5, NAN], np.float32)),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_numbers_that_are_not_finite(answer: object) -> None:
    with pytest.raises(CorruptFileError, match=r"\(nan\) instead of"):
        self_test(stub(answer), Precision.FLOAT32)


@pytest.mark.parametrize("score", [NAN, INF, -INF])
def test_expected_score_that_is_not_finite(score: float) -> None:
    with pytest.raises(CorruptFileError, match="answers its reference example with"):
        self_test(stub(Prediction(task="stub", label="x", score=0.5), score=score), Precision.FLOAT32)


def test_vector() -> None:
    answer = Embedding(task="stub", vector=np.array([0.6, 0.8, 0.0], np.float32))
    same = {"label": "", "score": 0.0}
    self_test(stub(answer, **same, vector=[0.61, 0.79]), Precision.FLOAT32)
    for vector in ([0.6, 0.7], [NAN]):
        with pytest.raises(CorruptFileError, match="answers its reference example"):
            self_test(stub(answer, **same, vector=vector), Precision.FLOAT32)
    for bad in ([], "text", [[0.6]], [0.1] * 9):
        with pytest.raises(CorruptFileError, match="the reference example of 'stub' cannot be used"):
            self_test(stub(answer, **same, vector=bad), Precision.FLOAT32)


def test_message_shows_no_control_characters() -> None:
    with pytest.raises(CorruptFileError) as caught:
        self_test(stub(Prediction(task="stub", label="\x1b[31m\u202e\x9b red", score=0.5)), Precision.FLOAT32)
    assert not {"\x1b", "\u202e", "\x9b"} & set(str(caught.value))
    assert "\\x1b[31m\\u202e\\x9b red" in str(caught.value)


def test_no_example(tiny_model: Model) -> None:
    with pytest.raises(CorruptFileError, match=r"'topic' has no reference example, .* or import it"):
        self_test(tiny_model.task("topic"), Precision.FLOAT32)
