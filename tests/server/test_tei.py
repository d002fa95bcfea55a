"""Text Embeddings Inference: forms of answers, their numbers, and errors."""

from __future__ import annotations

import numpy as np
import pytest

from mpt_edge.inference.model import Model
from tests.support.http import App

TEXT = "a good film"


def test_labels_of_a_text_the_likeliest_first(app: App, encoder: Model) -> None:
    reply = app.post("/predict?task=topic", {"inputs": TEXT})
    answer = encoder.task("topic")(TEXT)
    assert reply.json == [{"label": label, "score": pytest.approx(score, abs=1e-6)} for label, score in answer.top_k(9)]
    assert app.post("/predict", {"inputs": TEXT, "task": "topic"}).json == reply.json
    assert app.post("/?task=topic", {"inputs": TEXT}).json == reply.json


def test_labels_of_several_texts_and_of_pairs(app: App, encoder: Model) -> None:
    texts = ["a good film", "ball"]
    rows = app.post("/predict?task=topic", {"inputs": texts}).json
    assert [row[0]["label"] for row in rows] == [answer.label for answer in encoder.run(texts, "topic")]
    assert app.post("/predict?task=topic", {"inputs": [[text] for text in texts]}).json == rows
    pairs = [("a film", "a movie"), ("ball", "atom")]
    rows = app.post("/predict?task=same", {"inputs": pairs}).json
    assert [row[0]["label"] for row in rows] == [answer.label for answer in encoder.run(pairs, "same")]
    assert app.post("/predict?task=same", {"inputs": list(pairs[0])}).json == rows[0]


def test_raw_scores_are_cosine_similarities(app: App, encoder: Model) -> None:
    rows = app.post("/predict?task=topic", {"inputs": TEXT, "raw_scores": True}).json
    expected = encoder.task("topic")(TEXT).similarities
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(dict(expected), abs=1e-6)


def test_top_k(app: App) -> None:
    (row,) = app.post("/predict?task=topic", {"inputs": TEXT, "parameters": {"top_k": 2}}).json
    assert row == app.post("/predict?task=topic", {"inputs": TEXT}).json[:2]


@pytest.mark.parametrize("task", [None, "topic"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors(app: App, encoder: Model, task: str | None, normalize: bool) -> None:
    texts = [TEXT, "ball"]
    body = {"inputs": texts, "normalize": normalize, "task": task}
    expected = (encoder if task is None else encoder.task(task)).embed(texts, normalize=normalize)
    np.testing.assert_allclose(app.post("/embed", body).json, expected, atol=1e-6)
    np.testing.assert_allclose(app.post("/embed", {**body, "inputs": TEXT}).json, expected[:1], atol=1e-6)


def test_vectors_of_pairs(app: App, encoder: Model) -> None:
    reply = app.post("/embed?task=same", {"inputs": ["a film", "ball"]})
    np.testing.assert_allclose(reply.json, encoder.task("same").embed([("a film", "ball")]), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict?task=tropic", {"inputs": TEXT}, 404, "did you mean 'topic'?"),
        ("/predict?task=topic", {"inputs": ""}, 422, "the text is empty"),
        ("/predict?task=topic", {"inputs": ["a", " "]}, 422, "text 2: the text is empty"),
        ("/predict?task=topic", {"inputs": []}, 422, "there are no texts"),
        ("/predict?task=topic", {"inputs": ["a"] * 257}, 413, "257 texts are more than the 256"),
        ("/predict?task=same", {"inputs": "a"}, 422, "reads pairs"),
        ("/predict?task=topic", {"inputs": "film " * 99, "truncate": False}, 422, "longer than topic reads"),
        ("/predict?task=topic", {"inputs": "\ud800"}, 400, "no JSON"),
        ("/embed", {"inputs": "film " * 99, "truncate": False}, 422, "longer than the model reads"),
        ("/embed", {"inputs": "a", "dimensions": 7}, 422, "32 channels, not 7"),
        ("/embed?task=nothing", {"inputs": "a"}, 404, "no task 'nothing'"),
    ],
)
def test_errors(app: App, path: str, body: object, status: int, message: str) -> None:
    reply = app.post(path, body)
    assert (reply.status, set(reply.json)) == (status, {"error", "error_type"})
    assert message in reply.error


def test_a_text_that_is_cut_is_answered(app: App) -> None:
    assert app.post("/predict?task=topic", {"inputs": "film " * 99}).status == 200


def test_a_task_that_generates_text_names_its_route(writing: App) -> None:
    reply = writing.post("/predict?task=story", {"inputs": "a"})
    assert (reply.status, "/v1/completions" in reply.error) == (422, True)
    assert writing.post("/embed", {"inputs": "a"}).status == 422
    assert "use an encoder" in writing.post("/embed", {"inputs": "a"}).error
    assert writing.post("/predict?task=mood", {"inputs": "The cat"}).json[0]["label"] in ("good", "bad")


def test_info_and_health(app: App, encoder: Model) -> None:
    info = app.get("/info").json
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["tasks"] == encoder.tasks
    task = app.get("/info?task=topic").json
    assert task["model_type"]["classifier"]["id2label"] == {"0": "sport", "1": "law", "2": "science"}
    assert task["max_input_length"] == 16
    assert app.get("/health").json == {"status": "ready"}
