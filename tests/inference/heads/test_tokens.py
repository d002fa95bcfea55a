"""A label for every token, at its position in the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpt_edge.inference.heads.encoder_head import TextStates
from mpt_edge.inference.heads.tokens import Tokens
from tests.support.heads import compose, linear_head, make_file, make_row

TASK = make_file("tokens", ("O", "NAME"))
HEAD = Tokens.prepare(compose(TASK, linear_head(2)), None)  # type: ignore[arg-type]


def test_tokens_have_their_offsets_in_the_text() -> None:
    row = make_row("Ada is her", [(-1, 0, 0), (0, 0, 3), (0, 4, 6), (0, 6, 9), (-1, 0, 0)])
    logits = np.array([[9, 0], [0, 3], [2, 0], [0, 1], [0, 9]], np.float32)
    answer = HEAD.answer(logits, row)
    assert [(t.text, t.label) for t in answer.tokens] == [("Ada", "NAME"), ("is", "O"), (" he", "NAME")]
    assert (answer.tokens[2].start, answer.tokens[2].end) == (6, 9)
    assert answer.summary == "NAME O NAME"
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-1)))
    assert [t["label"] for t in answer.to_dict()["tokens"]] == ["NAME", "O", "NAME"]


def test_tokens_of_a_pair_belong_to_their_own_text() -> None:
    row = make_row(("Ada", "is her name"), [(0, 0, 3), (-1, 0, 0), (1, 3, 6)])
    assert [t.text for t in HEAD.answer(np.zeros((3, 2), np.float32), row).tokens] == ["Ada", "her"]


def test_scores_are_of_scaled_logits() -> None:
    head = Tokens(replace(TASK, scale=3.0), linear_head(2))
    (token,) = head.answer(np.array([[0, 1]], np.float32), make_row("x", [(0, 0, 1)], truncated=True)).tokens
    assert token.score == pytest.approx(1 / (1 + np.exp(-3)))


def test_logits_are_of_every_token() -> None:
    states = np.array([[1.0], [3.0]], np.float32)
    row = make_row("ab", [(0, 0, 1), (0, 1, 2)])
    np.testing.assert_array_equal(HEAD.scores(TextStates(row, states[0], states, states[0])), [[0, 1], [0, 3]])
