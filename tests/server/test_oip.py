"""The Open Inference Protocol: metadata, JSON and binary tensors, and errors."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from mpt_edge.inference.model import Model
from tests.support.http import App

TEXTS = ["a good film", "Törtchen ball"]


def tensor(name: str = "text", texts: list[str] = TEXTS, **changes: object) -> dict[str, object]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": texts} | changes


def packed(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def outputs(reply: dict) -> dict[str, list]:
    return {each["name"]: each["data"] for each in reply["outputs"]}


def test_the_server_and_its_models(app: App) -> None:
    assert app.get("/v2/health/live").status == app.get("/v2/health/ready").status == 200
    assert app.get("/v2").json["name"] == "mpt-edge"
    about = app.get("/v2/models/topic").json
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {"name": "scores", "datatype": "FP32", "shape": [-1, 3]} in about["outputs"]
    assert [each["name"] for each in app.get("/v2/models/same").json["inputs"]] == ["text", "text_pair"]
    assert app.get("/v2/models/topic/ready").status == 200
    assert app.get("/v2/models/topic/versions/1").json == about
    assert app.get("/v2/models/topic/versions/2").status == 404


def test_labels(app: App, encoder: Model) -> None:
    reply = app.post("/v2/models/topic/infer", {"id": "7", "inputs": [tensor()]}).json
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("7", "topic", "1")
    found, expected = outputs(reply), encoder.run(TEXTS, "topic")
    assert found["label"] == [answer.label for answer in expected]
    assert found["score"] == pytest.approx([answer.score for answer in expected], abs=1e-6)
    scores = np.reshape(found["scores"], (2, 3))
    np.testing.assert_allclose(scores, [list(answer.scores.values()) for answer in expected], atol=1e-6)


def test_pairs(app: App, encoder: Model) -> None:
    others = ["a movie", "atom"]
    reply = app.post("/v2/models/same/infer", {"inputs": [tensor("text_pair", others), tensor()]}).json
    expected = encoder.run(list(zip(TEXTS, others, strict=True)), "same")
    assert outputs(reply)["label"] == [answer.label for answer in expected]


def test_chosen_outputs(app: App, encoder: Model) -> None:
    body = {"inputs": [tensor()], "outputs": [{"name": "answer"}, {"name": "score"}]}
    found = outputs(app.post("/v2/models/topic/infer", body).json)
    assert list(found) == ["answer", "score"]
    assert [json.loads(each) for each in found["answer"]] == [
        answer.to_dict() for answer in encoder.run(TEXTS, "topic")
    ]


def test_binary_tensors(app: App, encoder: Model) -> None:
    data = packed(TEXTS)
    given = tensor(parameters={"binary_data_size": len(data)})
    del given["data"]
    wanted = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]
    head = json.dumps({"inputs": [given], "outputs": wanted}).encode()
    reply = app.post("/v2/models/topic/infer", head + data, inference_header_content_length=str(len(head)))
    length = int(reply.headers["inference-header-content-length"])
    expected = encoder.run(TEXTS, "topic")
    scores = np.frombuffer(reply.body[length:], "<f4").reshape(2, 3)
    np.testing.assert_allclose(scores, [list(answer.scores.values()) for answer in expected], atol=1e-6)
    assert json.loads(reply.body[:length])["outputs"][1]["data"] == [answer.label for answer in expected]


def test_generated_text(writing: App, generator: Model) -> None:
    body = {"inputs": [tensor(texts=["The cat"])], "parameters": {"max_new_tokens": 5, "priority": 3}}
    found = outputs(writing.post("/v2/models/story/infer", body).json)
    answer = generator.task("story")("The cat", max_new_tokens=5)
    assert (found["output"], found["new_tokens"]) == ([answer.text], [answer.new_tokens])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": [tensor(datatype="FP32")]}, "send texts as BYTES"),
        ({"inputs": [tensor(shape=[3])]}, "2 texts and the shape [3]"),
        ({"inputs": [tensor(shape=[-1, -2])]}, "2 texts and the shape"),
        ({"inputs": [tensor("other")]}, "has the inputs text, not other"),
        ({"inputs": []}, "has the inputs text, not none"),
        ({"inputs": [tensor(), tensor("text_pair")]}, "has the inputs text, not"),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, "has no data"),
        ({"inputs": [tensor(data=[1, 2])]}, "text 1: expected a text"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "has no output 'logits'"),
        ({}, "the field 'inputs' is missing"),
    ],
)
def test_errors(app: App, body: object, message: str) -> None:
    reply = app.post("/v2/models/topic/infer", body)
    assert (reply.status, list(reply.json)) == (422, ["error"])
    assert message in reply.error


@pytest.mark.parametrize("data", [b"\x05\0\0\0abc", b"\x01\0\0", b"\x01\0\0\0\xff", b"\xff\xff\xff\xffa"])
def test_broken_binary_tensors(app: App, data: bytes) -> None:
    given = tensor(texts=["a"], parameters={"binary_data_size": len(data)})
    del given["data"]
    head = json.dumps({"inputs": [given]}).encode()
    reply = app.post("/v2/models/topic/infer", head + data, inference_header_content_length=str(len(head)))
    assert (reply.status, "no binary tensor" in reply.error) == (422, True)


@pytest.mark.parametrize("length", ["x", "-1", "99999", "\u00b2", "9" * 30])
def test_broken_header(app: App, length: str) -> None:
    reply = app.post("/v2/models/topic/infer", {"inputs": []}, inference_header_content_length=length)
    assert reply.status == 400
