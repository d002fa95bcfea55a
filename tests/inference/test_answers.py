"""Answers from logits, against brute force."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mpt_edge.formats.linear_head import Head, Layer
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Embedding, Prediction
from mpt_edge.inference.interpret import LONGEST_ANSWER, TokenSpan, classify, extract, tag
from mpt_edge.inference.numerics import softmax


def task(readout: str, labels: tuple[str, ...] = ()) -> TaskFile:
    one = np.ones(1, np.float32)
    head = Head((Layer(np.ones((max(2, len(labels)), 1), np.float32), np.zeros(max(2, len(labels)), np.float32)),))
    values = {"labels": labels, "label_texts": (), "u": one, "v": one, "prompt": "", "prompt_sha256": ""}
    return TaskFile(
        "t", "pair", **values, backbone="", tokenizer="", readout=readout, scale=1.0, head=head, own_prompt=one[None]
    )


def test_classification() -> None:
    found = classify(task("classifier", ("a", "b", "c")), np.array([0.0, 2.0, 1.0], np.float32), truncated=True)
    assert (found.label, found.truncated, dict(found.similarities)) == ("b", True, {})
    assert found.score == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))
    assert sum(found.scores.values()) == pytest.approx(1)


def test_scores_are_of_scaled_logits() -> None:
    logits = np.array([[0, 1]], np.float32)
    scaled, wanted = replace(task("tokens", ("a", "b")), scale=3.0), pytest.approx(1 / (1 + np.exp(-3)))
    assert classify(scaled, logits[0], truncated=False).score == wanted
    assert tag(scaled, logits, "x", [TokenSpan(0, 0, 1)], truncated=False).score == wanted


def test_tokens_have_their_place_in_the_text() -> None:
    places = [TokenSpan(-1, 0, 0), TokenSpan(0, 0, 3), TokenSpan(0, 4, 6), TokenSpan(0, 6, 9), TokenSpan(-1, 0, 0)]
    logits = np.array([[9, 0], [0, 3], [2, 0], [0, 1], [0, 9]], np.float32)
    found = tag(task("tokens", ("O", "NAME")), logits, "Ada is her", places, truncated=False)
    assert [(t.text, t.label) for t in found.tokens] == [("Ada", "NAME"), ("is", "O"), (" he", "NAME")]
    assert (found.tokens[2].start, found.tokens[2].end) == (6, 9)
    assert found.label == "NAME O NAME"
    assert found.score == pytest.approx(1 / (1 + np.exp(-1)))
    assert [t["label"] for t in found.to_dict()["tokens"]] == ["NAME", "O", "NAME"]


def test_tokens_of_a_pair_stand_in_their_own_text() -> None:
    found = tag(
        task("tokens", ("O", "NAME")),
        np.zeros((3, 2), np.float32),
        ("Ada", "is her name"),
        [TokenSpan(0, 0, 3), TokenSpan(-1, 0, 0), TokenSpan(1, 3, 6)],
        truncated=False,
    )
    assert [t.text for t in found.tokens] == ["Ada", "her"]


@pytest.mark.parametrize("seed", range(20))
def test_span_is_the_likeliest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    context = " ".join(f"w{i:02}" for i in range(50))
    places = [
        TokenSpan(-1, 0, 0),
        TokenSpan(0, 0, 4),
        TokenSpan(-1, 0, 0),
        *(TokenSpan(1, 4 * i, 4 * i + 3) for i in range(50)),
    ]
    logits = rng.normal(0, 2, (len(places), 2)).astype(np.float32)
    found = extract(task("span"), logits, ("what?", context), places, truncated=False)
    starts, ends = (softmax(part) for part in logits[3:].T)
    allowed = [(i, j) for i in range(50) for j in range(i, min(50, i + LONGEST_ANSWER))]
    score, first, last = max((starts[i] * ends[j], i, j) for i, j in allowed)
    assert (found.start, found.end) == (4 * first, 4 * last + 3)
    assert found.label == context[found.start : found.end]
    assert found.score == pytest.approx(float(score))
    entries = json.loads(json.dumps(found.to_dict()))
    assert (entries["start"], entries["end"], entries["label"]) == (found.start, found.end, found.label)


def test_a_span_has_at_most_so_many_tokens() -> None:
    """The likelier end lies one token too far."""
    logits = np.zeros((50, 2), np.float32)
    logits[0, 0], logits[LONGEST_ANSWER - 1, 1], logits[LONGEST_ANSWER, 1] = 20, 10, 12
    places = [TokenSpan(1, i, i + 1) for i in range(50)]
    assert extract(task("span"), logits, ("q", "c" * 50), places, truncated=False).end == LONGEST_ANSWER


def test_question_that_leaves_no_room_for_the_text() -> None:
    found = extract(
        task("span"), np.ones((2, 2), np.float32), ("q", "c"), [TokenSpan(-1, 0, 0), TokenSpan(0, 0, 1)], truncated=True
    )
    assert (found.label, found.score, found.truncated) == ("", 0.0, True)


def test_vectors_can_stand_where_answers_are_compared() -> None:
    one, same, other = (
        Embedding("t", "", 0.0, truncated=False, vector=np.array([1, x], np.float32)) for x in (2, 2, 3)
    )
    assert one == same
    assert one != other
    assert one != Prediction("t", "", 0.0, truncated=False)
