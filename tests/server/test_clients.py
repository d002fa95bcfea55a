"""Real clients of a real server: openai, huggingface_hub, tritonclient and curl, against `Model.run`."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient

from mpt_edge.inference.model import Model
from tests.support.http import Server, served

TEXTS = ["a good film", "ball game", "vote party and a star"]
PROMPT = "Tom had a red ball. One day, he"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    with served(tiny_bundle, "--threads", 1, "--max-body", 100_000, "--max-queue", 300) as started:
        yield started


@pytest.fixture(scope="module")
def writer_server(writer_bundle: Path) -> Iterator[Server]:
    with served(writer_bundle, "--threads", 1) as started:
        yield started


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none-is-needed", max_retries=0)


def test_openai_embeddings_and_models(server: Server, encoder: Model) -> None:
    api = client(server)
    assert [model.id for model in api.models.list()] == encoder.tasks
    rows = api.embeddings.create(model="topic", input=TEXTS).data
    np.testing.assert_allclose([row.embedding for row in rows], encoder.task("topic").embed(TEXTS), atol=1e-6)
    with pytest.raises(openai.NotFoundError, match="did you mean 'topic'"):
        api.embeddings.create(model="tropic", input=TEXTS)
    with pytest.raises(openai.UnprocessableEntityError, match="text 2: the text is empty"):
        api.embeddings.create(model="topic", input=["a", ""])


def test_openai_completions(writer_server: Server, generator: Model) -> None:
    api, story = client(writer_server), generator.task("story")
    done = api.completions.create(model="story", prompt=PROMPT, max_tokens=12)
    assert done.choices[0].text == story(PROMPT, max_new_tokens=12).text
    pieces = [piece.choices[0] for piece in api.completions.create(model="story", prompt=PROMPT, stream=True)]
    assert "".join(piece.text for piece in pieces) == story(PROMPT).text
    assert pieces[-1].finish_reason in ("stop", "length")
    messages = [{"role": "user", "content": PROMPT}]
    chat = api.chat.completions.create(model="story", messages=messages)
    assert chat.choices[0].message.content == story(PROMPT).text
    deltas = api.chat.completions.create(model="story", messages=messages, stream=True)
    assert "".join(delta.choices[0].delta.content or "" for delta in deltas) == story(PROMPT).text


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client make requests, to this machine; the tests' environment keeps it offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("hub")
def test_huggingface_hub(server: Server, encoder: Model) -> None:
    api = InferenceClient()
    rows = api.text_classification(TEXTS[0], model=f"{server.url}/predict?task=topic", top_k=2)
    assert [(row.label, pytest.approx(row.score, abs=1e-6)) for row in rows] == encoder.task("topic")(TEXTS[0]).top_k(2)
    bare = api.feature_extraction(TEXTS[0], model=f"{server.url}/embed")
    np.testing.assert_allclose(bare[0], encoder.embed(TEXTS[0]), atol=1e-6)
    under = api.feature_extraction(TEXTS[0], model=f"{server.url}/embed?task=topic", normalize=False)
    np.testing.assert_allclose(under[0], encoder.task("topic").embed(TEXTS[0], normalize=False), atol=1e-6)


@pytest.mark.usefixtures("hub")
def test_huggingface_hub_chats(writer_server: Server, generator: Model) -> None:
    api = InferenceClient(model=f"{writer_server.url}?task=story")
    messages = [{"role": "user", "content": PROMPT}]
    pieces = api.chat_completion(messages, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == generator.task("story")(PROMPT).text


@pytest.mark.parametrize("binary", [True, False])
def test_triton(server: Server, encoder: Model, binary: bool) -> None:
    api = triton.InferenceServerClient(server.host)
    assert api.is_server_live()
    assert api.is_server_ready()
    assert api.is_model_ready("topic")
    assert api.get_model_metadata("topic")["inputs"][0]["datatype"] == "BYTES"
    given = triton.InferInput("text", [3], "BYTES")
    given.set_data_from_numpy(np.array(TEXTS, object), binary_data=binary)
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    result, expected = api.infer("topic", [given], outputs=asked), encoder.run(TEXTS, "topic")
    labels = [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("label")]
    assert labels == [answer.label for answer in expected]
    scores = [list(answer.scores.values()) for answer in expected]
    np.testing.assert_allclose(result.as_numpy("scores"), scores, atol=1e-6)
    everything = api.infer("topic", [given])
    assert everything.as_numpy("score").shape == (3,)
    with pytest.raises(triton.InferenceServerException, match="did you mean 'topic'"):
        api.infer("tropic", [given])
    api.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server: Server, encoder: Model) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True).stdout

    answer = encoder.task("topic")(TEXTS[0])
    body = json.dumps({"inputs": TEXTS[0]})
    assert json.loads(curl(f"{server.url}/predict?task=topic", "-d", body))[0]["label"] == answer.label
    refused = curl(
        "-o", "/dev/null", "-w", "%{http_code}", f"{server.url}/predict", "-H", "Host: evil.example", "-d", body
    )
    assert refused == "421"


def test_many_clients_at_once_get_their_own_answers(server: Server, encoder: Model) -> None:
    tasks = ["topic", "sentiment"]

    def ask(number: int) -> list[dict]:
        body = json.dumps({"inputs": f"{TEXTS[number % 3]} {'good ' * (number % 5)}"}).encode()
        return server.fetch(f"/predict?task={tasks[number % 2]}", body).json

    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(ask, range(64)))
    texts = [f"{TEXTS[number % 3]} {'good ' * (number % 5)}" for number in range(64)]
    for row, expected in zip(rows, encoder.run(texts, tasks * 32), strict=True):
        assert {each["label"]: each["score"] for each in row} == pytest.approx(dict(expected.scores), abs=1e-6)


def test_bodies_that_are_too_large_are_refused_while_they_come(server: Server) -> None:
    host, port = server.host.split(":")
    large = socket.create_connection((host, int(port)))
    large.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n")
    assert large.recv(1000).startswith(b"HTTP/1.1 413")
    large.close()
    endless = http.client.HTTPConnection(server.host)
    endless.request("POST", "/predict", (b"x" * 50_000 for _ in range(10)), encode_chunked=True)
    assert endless.getresponse().status == 413
    endless.close()
    many = json.dumps({"inputs": ["a"] * 10_000, "task": "topic"}).encode()
    assert server.fetch("/predict", many).status == 413
    assert server.fetch("/predict", b"{").status == 400
    assert server.fetch("/health").status == 200


def test_clients_that_leave_take_nothing_with_them(server: Server) -> None:
    body = json.dumps({"inputs": ["a good film"] * 200}).encode()
    head = f"POST /predict?task=topic HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    host, port = server.host.split(":")
    for sent in (head[:20], head, head + body[:50], head + body):
        for _ in range(5):
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(sent)
    reply = server.fetch("/predict?task=topic", b'{"inputs": "a film"}')
    assert reply.status in (200, 429)  # those that left whole requests may fill the queue for a moment
