"""Bodies: JSON that is checked, and errors that name the field."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from mpt_edge.server import bodies
from mpt_edge.server.limits import Limits
from mpt_edge.server.problems import Problem
from mpt_edge.server.rows import RunBody
from mpt_edge.server.tei import PredictBody


@pytest.mark.parametrize(
    ("model", "body", "status", "message"),
    [
        (PredictBody, b"{", 400, "no JSON"),
        (PredictBody, b"\xff", 400, "no JSON"),
        (PredictBody, b"[1]", 422, "no JSON object"),
        (PredictBody, b"{}", 422, "the field 'inputs' is missing; add it."),
        (PredictBody, b'{"inputs": 3}', 422, "the field 'inputs' cannot be used"),
        (PredictBody, b'{"inputs": "a", "truncate": "perhaps"}', 422, "the field 'truncate' cannot be used"),
        (RunBody, b'{"rows": [{"text": "a", "label": "b"}]}', 422, "there is no field 'rows.0.label'"),
        (RunBody, b'{"rows": [{}]}', 422, "the field 'rows.0.text' is missing"),
    ],
)
def test_a_body_that_cannot_be_used(model: type[BaseModel], body: bytes, status: int, message: str) -> None:
    with pytest.raises(Problem, match=message) as caught:
        bodies.parse(body, model)
    assert caught.value.status == status


@pytest.mark.parametrize(("count", "status"), [(0, 422), (257, 413), (10_000, 413)])
def test_numbers_of_texts(count: int, status: int) -> None:
    with pytest.raises(Problem) as caught:
        bodies.check_texts(count, Limits())
    assert caught.value.status == status
    bodies.check_texts(256, Limits())


def test_a_schema_has_no_references() -> None:
    assert "$" not in str(bodies.body_of(RunBody))
    assert "text_pair" in str(bodies.body_of(RunBody))
