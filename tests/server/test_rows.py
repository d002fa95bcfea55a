"""Rows of several tasks: answers as `mpt-edge run --json` prints them, and errors of their own."""

from __future__ import annotations

from mpt_edge.inference.model import Model
from tests.support.http import App


def test_each_row_has_its_answer_or_its_error(app: App, encoder: Model) -> None:
    rows = [
        {"text": "a good film", "task": "topic"},
        {"text": "", "task": "topic"},
        {"text": "a film", "text_pair": "a movie", "task": "same"},
        {"text": "ball"},
        {"text": "ball", "task": "none"},
        {"text": "ball", "task": "same"},
    ]
    answers = app.post("/run", {"rows": rows}).json["answers"]
    assert answers[0] == encoder.task("topic")("a good film").to_dict()
    assert answers[1] == {"task": "topic", "error": "the text is empty; pass at least one word."}
    assert answers[2] == encoder.task("same")(("a film", "a movie")).to_dict()
    assert answers[3] == {"error": 'the row names no task; add the field "task".'}
    assert "no task 'none'" in answers[4]["error"]
    assert "reads pairs" in answers[5]["error"]


def test_a_task_for_rows_that_name_none(app: App, encoder: Model) -> None:
    rows = [{"text": "ball"}, {"text": "ball", "task": "sentiment"}]
    for path, body in (("/run?task=topic", {"rows": rows}), ("/run", {"rows": rows, "task": "topic"})):
        answers = app.post(path, body).json["answers"]
        assert [answer["task"] for answer in answers] == ["topic", "sentiment"]


def test_generated_rows(writing: App, generator: Model) -> None:
    body = {"rows": [{"text": "The cat", "task": "story"}], "options": {"max_new_tokens": 4}}
    answer = generator.task("story")("The cat", max_new_tokens=4)
    (given,) = writing.post("/run", body).json["answers"]
    times = [given.pop(name) for name in ("first_token_seconds", "seconds")]
    assert 0 < times[0] <= times[1]
    assert answer.to_dict().items() >= given.items()
    assert (given["output"], given["input_tokens"], given["new_tokens"]) == (answer.text, 2, answer.new_tokens)
    assert "no option 'x'" in writing.post("/run", body | {"options": {"x": 1}}).error


def test_limits(app: App) -> None:
    assert app.post("/run", {"rows": []}).status == 422
    assert app.post("/run", {"rows": [{"text": "a", "task": "topic"}] * 10_000}).status == 413
