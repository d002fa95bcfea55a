"""The likeliest passage of the second text, against all passages there are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.heads.span import MAX_ANSWER_TOKENS, Span
from mpt_edge.inference.numerics import softmax
from tests.support.heads import compose, linear_head, make_file, make_row

HEAD = Span.prepare(compose(make_file("span"), linear_head(2)), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_span_is_the_likeliest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    context = " ".join(f"w{i:02}" for i in range(50))
    offsets = [(-1, 0, 0), (0, 0, 4), (-1, 0, 0), *((1, 4 * i, 4 * i + 3) for i in range(50))]
    logits = rng.normal(0, 2, (len(offsets), 2)).astype(np.float32)
    answer = HEAD.answer(logits, make_row(("what?", context), offsets))
    starts, ends = (softmax(part) for part in logits[3:].T)
    allowed = [(i, j) for i in range(50) for j in range(i, min(50, i + MAX_ANSWER_TOKENS))]
    score, first, last = max((starts[i] * ends[j], i, j) for i, j in allowed)
    assert (answer.start, answer.end) == (4 * first, 4 * last + 3)
    assert answer.text == context[answer.start : answer.end]
    assert answer.score == pytest.approx(float(score))
    entries = json.loads(json.dumps(answer.to_dict()))
    assert (entries["start"], entries["end"], entries["output"]) == (answer.start, answer.end, answer.text)


def test_a_span_has_a_maximum_number_of_tokens() -> None:
    """The likelier end is one token too far."""
    logits = np.zeros((50, 2), np.float32)
    logits[0, 0], logits[MAX_ANSWER_TOKENS - 1, 1], logits[MAX_ANSWER_TOKENS, 1] = 20, 10, 12
    row = make_row(("q", "c" * 50), [(1, i, i + 1) for i in range(50)])
    assert HEAD.answer(logits, row).end == MAX_ANSWER_TOKENS


def test_question_that_leaves_no_room_for_the_text() -> None:
    row = make_row(("q", "c"), [(-1, 0, 0), (0, 0, 1)], truncated=True)
    answer = HEAD.answer(np.ones((2, 2), np.float32), row)
    assert (answer.text, answer.score, answer.truncated) == ("", 0.0, True)


def test_single_texts_are_a_problem() -> None:
    assert list(Span.problems(make_file("span"))) == []
    (problem,) = Span.problems(make_file("span", inputs=Inputs.TEXT))
    assert problem == "it answers from a second text, and does not read pairs"
