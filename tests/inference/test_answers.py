"""Answers: their JSON, summaries, comparison, and streams."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest

from mpt_edge.inference.answers import Answer, Embedding, Generation, Prediction, Span, Stream, Tagging, TokenLabel

SCORES = {"a": 0.25, "b": 0.5, "c": 0.25}
PREDICTION = Prediction(task="t", label="b", score=0.5, scores=SCORES, similarities={"a": 0.1, "b": 0.2, "c": 0.1})
TAGGING = Tagging(task="t", tokens=(TokenLabel("Ada", 0, 3, "NAME", 0.9), TokenLabel("is", 4, 6, "O", 0.75)))
SPAN = Span(task="t", text="Mars", score=0.625, start=3, end=7)
EMBEDDING = Embedding(task="t", vector=np.array([0.6, -0.8, 0, 0], np.float32))
GENERATION = Generation(
    task="t", text="so it was", input_tokens=3, new_tokens=4, finish="eos", first_token_seconds=0.25, seconds=0.5
)


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (PREDICTION, {"label": "b", "score": 0.5, "scores": SCORES}),
        (
            TAGGING,
            {
                "tokens": [
                    {"text": "Ada", "start": 0, "end": 3, "label": "NAME", "score": 0.9},
                    {"text": "is", "start": 4, "end": 6, "label": "O", "score": 0.75},
                ]
            },
        ),
        (SPAN, {"output": "Mars", "score": 0.625, "start": 3, "end": 7}),
        (EMBEDDING, {"vector": [0.6, -0.8, 0.0, 0.0]}),
        (
            GENERATION,
            {
                "output": "so it was",
                "input_tokens": 3,
                "new_tokens": 4,
                "finish": "eos",
                "first_token_seconds": 0.25,
                "seconds": 0.5,
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json(answer: Answer, content: dict[str, object]) -> None:
    assert json.loads(json.dumps(answer.to_dict())) == {"task": "t", **content}


def test_json_of_a_truncated_text() -> None:
    assert Span(task="t", text="", score=0.0, truncated=True).to_dict()["truncated"] is True


@pytest.mark.parametrize(
    ("answer", "summary", "confidence"),
    [
        (PREDICTION, "b", 0.5),
        (TAGGING, "NAME O", 0.75),
        (Tagging(task="t", tokens=()), "", 0.0),
        (SPAN, "Mars", 0.625),
        (EMBEDDING, "(4) 0.600, -0.800, 0.000, ...", None),
        (GENERATION, "so it was", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_summary_and_confidence(answer: Answer, summary: str, confidence: float | None) -> None:
    assert (answer.summary, answer.confidence) == (summary, confidence)


def test_a_guess_is_withheld() -> None:
    guess = replace(PREDICTION, abstain=True, truncated=True)
    withheld = guess.withheld()
    assert guess.to_dict()["abstain"] is True
    assert withheld.to_dict() == guess.to_dict() | {"label": None}
    assert (withheld.summary, withheld.confidence) == ("?", 0.5)
    assert PREDICTION.withheld() is PREDICTION


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1, [("b", 0.5)]), (2, [("b", 0.5), ("a", 0.25)]), (9, [("b", 0.5), ("a", 0.25), ("c", 0.25)])],
)
def test_top_k(k: int, expected: list[tuple[str, float]]) -> None:
    """Equal labels keep their order."""
    assert PREDICTION.top_k(k) == expected


def test_embeddings_are_compared_by_value() -> None:
    one, same, other = (Embedding(task="t", vector=np.array([1, x], np.float32)) for x in (2, 2, 3))
    assert one == same
    assert one != other
    assert one != Embedding(task="t", vector=one.vector, truncated=True)
    assert one != Prediction(task="t", label="", score=0.0)


@pytest.mark.parametrize("answer", [PREDICTION, EMBEDDING], ids=lambda value: type(value).__name__)
def test_repr_is_short(answer: Answer) -> None:
    assert len(repr(answer)) < 80


def stream(closed: list[bool]) -> Stream:
    def pieces() -> Generator[str]:
        try:
            yield from ("so ", "it ", "was")
        finally:
            closed.append(True)

    return Stream(pieces(), lambda: GENERATION, truncated=True)


def test_stream_to_its_end() -> None:
    whole = stream([])
    assert whole.truncated
    assert whole.answer is None
    assert list(whole) == ["so ", "it ", "was"]
    assert whole.answer == GENERATION


def test_stream_that_is_closed_early() -> None:
    closed: list[bool] = []
    with stream(closed) as part:
        assert next(part) == "so "
    assert closed == [True]
    assert part.answer is None


def test_json_of_an_unknown_text() -> None:
    assert replace(PREDICTION, unknown=True).to_dict() == PREDICTION.to_dict() | {"unknown": True}
    assert replace(EMBEDDING, unknown=True) != EMBEDDING
