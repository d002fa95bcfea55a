"""Errors: statuses, and the form of each protocol."""

from __future__ import annotations

import json

import pytest

from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.server import problems
from mpt_edge.server.problems import Problem


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no"), 422),
        (MismatchError("no"), 422),
        (UnknownTaskError("sst3", ["sst2"], "here"), 404),
        (CorruptFileError("no"), 500),
        (Problem(429, "no"), 429),
        (MemoryError(), 500),
        (KeyError("secret"), 500),
    ],
)
def test_status(error: Exception, status: int) -> None:
    assert problems.of_error(error).status == status


def test_the_sentence_is_that_of_the_command_line_and_tells_nothing_of_other_errors() -> None:
    assert str(problems.of_error(InputError("the text is empty; pass a word."))) == "the text is empty; pass a word."
    assert "secret" not in str(problems.of_error(KeyError("secret")))


def test_a_text_is_named_by_its_number_where_there_are_several() -> None:
    assert str(problems.of_text(InputError("it is empty."), 3, 5)) == "text 3: it is empty."
    assert str(problems.of_text(InputError("it is empty."), 1, 1)) == "it is empty."


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/predict", {"error": "no", "error_type": "Validation"}),
        ("/v1/embeddings", {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}),
        ("/v2/models/x/infer", {"error": "no"}),
        ("/v2", {"error": "no"}),
    ],
)
def test_form(path: str, expected: dict[str, object]) -> None:
    response = problems.answer_to(Problem(422, "no", {"Retry-After": "1"}), path)
    assert json.loads(response.body) == expected
    assert response.headers["retry-after"] == "1"


def test_clients_of_openai_see_which_error_it_is() -> None:
    unknown = problems.of_error(UnknownTaskError("a", [], "b"))
    assert problems.form(unknown, "/v1/x")["error"]["code"] == "model_not_found"
    assert problems.form(Problem(401, "no"), "/v1/x")["error"]["code"] == "invalid_api_key"
    assert problems.form(Problem(500, "no"), "/v1/x")["error"]["type"] == "server_error"
