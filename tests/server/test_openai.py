"""OpenAI's protocol: models, embeddings, completions and their streams, and its form of errors."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import mpt_edge
from mpt_edge.inference.model import Model
from mpt_edge.training.backbones.chat_template import ChatTemplate
from tests.support import http
from tests.support.http import App, Reply

PROMPT = "Tom had a red ball. One day, he"


def events(reply: Reply) -> list[dict]:
    lines = reply.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_models_are_tasks(app: App, encoder: Model) -> None:
    assert [each["id"] for each in app.get("/v1/models").json["data"]] == encoder.tasks
    assert app.get("/v1/models/topic").json["id"] == "topic"
    reply = app.get("/v1/models/tropic")
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")


def test_embeddings(app: App, encoder: Model) -> None:
    texts = ["a good film", "ball"]
    reply = app.post("/v1/embeddings", {"model": "topic", "input": texts}).json
    expected = encoder.task("topic").embed(texts)
    np.testing.assert_allclose([row["embedding"] for row in reply["data"]], expected, atol=1e-6)
    assert [row["index"] for row in reply["data"]] == [0, 1]
    assert reply["usage"]["total_tokens"] == 5 + 3
    raw = app.post("/v1/embeddings", {"model": "topic", "input": texts, "encoding_format": "base64"}).json["data"]
    vectors = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in raw]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_embeddings_of_the_bare_model(app: App, encoder: Model) -> None:
    name = encoder.manifest.backbone["id"]
    (row,) = app.post("/v1/embeddings", {"model": name, "input": "ball"}).json["data"]
    np.testing.assert_allclose(row["embedding"], encoder.embed("ball"), atol=1e-6)


def test_a_completion(writing: App, generator: Model) -> None:
    reply = writing.post("/v1/completions", {"model": "story", "prompt": PROMPT, "max_tokens": 9}).json
    answer = generator.task("story")(PROMPT, max_new_tokens=9)
    (choice,) = reply["choices"]
    assert choice["text"] == answer.text
    assert choice["finish_reason"] == {"eos": "stop"}.get(answer.finish, answer.finish)
    usage = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.new_tokens}
    assert reply["usage"] == usage | {"total_tokens": sum(usage.values())}
    assert reply["object"] == "text_completion"


def test_completions_of_several_prompts(writing: App, generator: Model) -> None:
    prompts = ["The cat", PROMPT]
    choices = writing.post("/v1/completions", {"model": "story", "prompt": prompts}).json["choices"]
    assert [choice["text"] for choice in choices] == [answer.text for answer in generator.run(prompts, "story")]


def test_a_chat(writing: App, generator: Model) -> None:
    messages = [
        {"role": "system", "content": "Question:"},
        {"role": "user", "content": [{"type": "text", "text": "who sang"}]},
    ]
    reply = writing.post("/v1/chat/completions", {"model": "ask", "messages": messages}).json
    assert reply["choices"][0]["message"]["content"] == generator.task("ask")("Question:\nwho sang").text
    assert reply["object"] == "chat.completion"


@pytest.mark.parametrize("seed", [0, 7])
def test_sampling_with_a_seed(writing: App, generator: Model, seed: int) -> None:
    options = {"temperature": 1.2, "top_p": 0.9, "seed": seed}
    reply = writing.post("/v1/completions", {"model": "story", "prompt": PROMPT, **options}).json
    assert reply["choices"][0]["text"] == generator.task("story")(PROMPT, **options).text


@pytest.mark.parametrize("path", ["/v1/completions", "/run", "/v2/models/story/infer"])
def test_stop_texts(writing: App, generator: Model, path: str) -> None:
    whole = generator.task("story")(PROMPT, max_new_tokens=30).text
    stop = whole[len(whole) // 2 :][:3]
    options = {"max_new_tokens": 30, "stop": [stop]}
    body = {
        "/v1/completions": {"model": "story", "prompt": PROMPT, "max_tokens": 30, "stop": stop},
        "/run": {"rows": [{"text": PROMPT, "task": "story"}], "options": options},
    }.get(
        path, {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [PROMPT]}], "parameters": options}
    )
    reply = json.dumps(writing.post(path, body).json, ensure_ascii=False)
    answer = generator.task("story")(PROMPT, **options)
    assert answer.finish == "stop"
    assert answer.text == whole[: whole.index(stop)]
    assert json.dumps(answer.text, ensure_ascii=False) in reply


def test_a_stream_has_the_same_text_in_pieces(writing: App, generator: Model) -> None:
    body = {"model": "story", "prompt": PROMPT, "stream": True, "stream_options": {"include_usage": True}}
    reply = writing.post("/v1/completions", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *pieces, usage = events(reply)
    answer = generator.task("story")(PROMPT)
    assert len(pieces) > 3
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == answer.text
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1]["choices"][0]["finish_reason"] == {"eos": "stop"}.get(answer.finish, answer.finish)
    assert usage["usage"]["completion_tokens"] == answer.new_tokens
    assert len(reply.parts) > 3


def test_a_chat_is_streamed(writing: App, generator: Model) -> None:
    body = {"model": "story", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    pieces = events(writing.post("/v1/chat/completions", body))
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == generator.task("story")(PROMPT).text
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}


def test_a_client_that_leaves_ends_its_stream(writing: App) -> None:
    async def ask() -> None:
        left = asyncio.Event()
        body = json.dumps({"model": "story", "prompt": PROMPT, "stream": True}).encode()
        task = asyncio.ensure_future(writing.send("POST", "/v1/completions", [body], left=left))
        await asyncio.sleep(0)
        left.set()
        await task
        async with asyncio.timeout(10):
            while writing.service.streaming:
                await asyncio.sleep(0.001)

    writing.run(ask())


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"model": "stories"}, 404, "did you mean 'story'"),
        ({"model": "mood"}, 422, "chooses a label"),
        ({"prompt": ""}, 422, "the text is empty"),
        ({"prompt": [1, 2]}, 422, "the field 'prompt' cannot be used"),
        ({"prompt": []}, 422, "there are no texts"),
        ({"max_tokens": 0}, 422, "0 new tokens"),
        ({"temperature": -1}, 422, "a temperature of -1"),
        ({"n": 2}, 422, "the field 'n' has no use here"),
        ({"logprobs": 3}, 422, "the field 'logprobs' has no use here"),
        ({"stream": True, "num_beams": 2}, 422, "beam search"),
        ({"stream": True, "prompt": ["a", "b"]}, 422, "a stream has one text"),
        ({"stream": True, "prompt": " "}, 422, "the text is empty"),
    ],
)
def test_errors_have_the_form_of_openai(writing: App, changes: dict, status: int, message: str) -> None:
    reply = writing.post("/v1/completions", {"model": "story", "prompt": PROMPT} | changes)
    assert (reply.status, set(reply.json["error"])) == (status, {"message", "type", "param", "code"})
    assert message in reply.error


NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 23]}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize("is_stream", [False, True])
def test_texts_under_a_schema_or_an_expression(writing: App, is_stream: bool) -> None:
    body = {"model": "story", "messages": [{"role": "user", "content": PROMPT}], "temperature": 2, "stream": is_stream}

    def text(**more: object) -> str:
        reply = writing.post("/v1/chat/completions", body | more)
        if not is_stream:
            return str(reply.json["choices"][0]["message"]["content"])
        return "".join(piece["choices"][0]["delta"]["content"] for piece in events(reply))

    form = {"type": "json_schema", "json_schema": {"name": "number", "strict": True, "schema": NUMBER}}
    assert json.loads(text(response_format=form))["n"] in (1, 23)
    assert text(response_format={"type": "json_object"}, max_tokens=80).startswith("{")
    assert text(regex="yes|no", response_format={"type": "text"}) in ("yes", "no")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response_format": {"type": "yaml"}}, "the field 'response_format' cannot be used"),
        ({"response_format": {"type": "json_schema"}}, "'response_format.json_schema' is missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "the JSON schema cannot be used",
        ),
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "x" * 70_000}, "more than 65,536 characters"),
        ({"regex": "(((a{1000}){1000}){1000})"}, "needs at least"),
        ({"regex": "a{300}", "stream": True}, "needs at least"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_constraints_that_are_refused(writing: App, changes: dict, message: str) -> None:
    reply = writing.post("/v1/completions", {"model": "story", "prompt": PROMPT} | changes)
    assert reply.status == 422
    assert message in reply.error


def test_a_chat_template_gives_the_tokens_of_transformers(writer_bundle: Path, tmp_path: Path) -> None:
    """Of a message that a client sends, special tokens included."""
    model = mpt_edge.load(writer_bundle, threads=1)
    source = (
        "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
    )
    frame = ChatTemplate(source, {}).frame("tiny", "Be good.")
    replace(model.task("story").file, name="chat", chat=frame).save(tmp_path / "chat.safetensors")
    model.add_task(tmp_path / "chat.safetensors")
    reference = PreTrainedTokenizerFast(tokenizer_object=model.texts.tokenizer, chat_template=source)
    read, opened = [], model.backbone.open
    opening = list(model._select("chat").opening.ids)

    def spy(batch, caches, held):
        read.append(opening[: held[0]] + batch.input_ids[0].tolist())
        return opened(batch, caches, held)

    model.backbone.open = spy
    with http.ready(model) as app:
        for text in (PROMPT, "a </s> in it", "süße\n日本 "):
            body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 2}
            usage = app.post("/v1/chat/completions", body).json["usage"]
            chat = [{"role": "system", "content": "Be good."}, {"role": "user", "content": text}]
            expected = reference.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            assert read.pop() == expected
            assert usage["prompt_tokens"] == len(expected)


def test_an_image_is_refused(writing: App) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "send text alone" in writing.post("/v1/chat/completions", {"model": "ask", "messages": messages}).error


def test_an_encoder_generates_no_text(app: App) -> None:
    assert "/predict" in app.post("/v1/completions", {"model": "topic", "prompt": "a"}).error
