"""Texts of a request: single ones, lists and pairs, and the task that they are for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mpt_edge.formats.taskfile import Inputs
from mpt_edge.server import asking
from mpt_edge.server.problems import Problem
from tests.support.http import App


@pytest.mark.parametrize(
    ("given", "inputs", "texts", "is_single"),
    [
        ("a", Inputs.TEXT, ["a"], True),
        (["a", "b"], Inputs.TEXT, ["a", "b"], False),
        (["a"], Inputs.TEXT, ["a"], False),
        ([["a"], ["b"]], Inputs.TEXT, ["a", "b"], False),
        (["a", "b"], Inputs.PAIR, [("a", "b")], True),
        ([["a", "b"], ["c", "d"]], Inputs.PAIR, [("a", "b"), ("c", "d")], False),
        ([["a", "b"]], Inputs.PAIR, [("a", "b")], False),
        ([["a", "b", "c"]], Inputs.PAIR, [("a", "b", "c")], False),
        ([], Inputs.TEXT, [], False),
    ],
)
def test_texts(given: object, inputs: Inputs, texts: list[object], is_single: bool) -> None:
    assert asking.texts_of(given, inputs) == (texts, is_single)


def test_a_task_is_named_once() -> None:
    http = SimpleNamespace(query_params={"task": "a"})
    assert asking.named(http, None) == asking.named(http, "a") == "a"
    assert asking.named(SimpleNamespace(query_params={}), "b") == "b"
    with pytest.raises(Problem, match="name one"):
        asking.named(http, "b")


def test_a_task_has_to_be_named_where_there_are_several(app: App) -> None:
    reply = app.post("/predict", {"inputs": "a"})
    assert reply.status == 422
    assert "?task=NAME" in reply.error
