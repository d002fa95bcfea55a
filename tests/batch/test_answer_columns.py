"""Columns of answers: by class, in one order, with missing values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpt_edge import Embedding, Generation, Model, Prediction, Span, Tagging, TokenLabel
from mpt_edge.batch.answer_columns import Kind, answer_types, schema_of, values_of
from mpt_edge.inference.answers import Answer

FLAGS = {"truncated": Kind.FLAG, "unknown": Kind.FLAG}

ANSWERS = [
    Prediction(task="t", label="a", score=0.5),
    Prediction(task="t", label="a", score=0.25, abstain=True),
    Prediction(task="t", label="a", score=0.25, abstain=True).withheld(),
    Generation(task="t", text="so", input_tokens=3, new_tokens=2, finish="eos", truncated=True),
    Span(task="t", text="here", score=0.25, start=3, end=7),
    Embedding(task="t", vector=np.ones(2, np.float32)),
    Tagging(task="t", tokens=(TokenLabel("x", 0, 1, "B", 0.75),)),
]


def test_columns_do_not_depend_on_the_order_of_classes() -> None:
    types = [type(answer) for answer in ANSWERS]
    schema = schema_of(types)
    assert list(schema_of(reversed(types)).items()) == list(schema.items())
    assert schema_of([Prediction]) == {
        "label": Kind.TEXT, "score": Kind.NUMBER, "abstain": Kind.FLAG
    } | FLAGS  # fmt: skip


def test_values_are_those_of_to_dict() -> None:
    columns = values_of([*ANSWERS, None], schema_of(map(type, ANSWERS)))
    for i, answer in enumerate(ANSWERS):
        row = {name: values[i] for name, values in columns.items() if values[i] is not None}
        given = {name: value for name, value in answer.to_dict().items() if value is not None}
        expected = {name: value for name, value in given.items() if name not in ("task", "scores")}
        row = {name: value for name, value in row.items() if value is not False}
        assert {**row, "vector": list(row.get("vector", ()))} == {**expected, "vector": expected.get("vector", [])}
    assert {values[-1] for values in columns.values()} == {None, False}


def test_other_classes_have_their_summary() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Rating(Answer):
        stars: int

        @property
        def summary(self) -> str:
            return "*" * self.stars

        def _content(self) -> dict[str, int]:
            return {"stars": self.stars}

    schema = schema_of([Rating])
    assert schema == {"answer": Kind.TEXT} | FLAGS
    assert values_of([Rating(task="t", stars=3)], schema)["answer"] == ["***"]


def test_classes_of_tasks(tiny_model: Model) -> None:
    assert answer_types(tiny_model, "topic") == answer_types(tiny_model, None) == [Prediction]
