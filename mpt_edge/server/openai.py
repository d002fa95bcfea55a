"""OpenAI's protocol: /v1/models, /v1/embeddings, /v1/completions and /v1/chat/completions. A model is a task."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.inference.answers import Answer, Generation
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.server import asking, bodies, problems
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service
from mpt_edge.server.tei import check_width

#: OpenAI's reasons for the end of a text, by ours.
_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}

#: Fields that would change an answer, and that no task has; each with the values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
}


class EmbeddingsBody(BaseModel):
    """Body of `/v1/embeddings`."""

    model: str = Field(description="A task, or the backbone's id for the bare model.")
    input: str | list[str] = Field(description="A text, or a list of texts.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Must be the model's own number, if given.")


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class NamedSchema(BaseModel, extra="allow"):
    """A JSON schema as `response_format` has it."""

    content: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """Form of a text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    def schema_of_text(self) -> dict[str, Any] | None:
        """Return the JSON schema of the text. Raises Problem where it is missing."""
        if self.type == "json_object":
            return {"type": "object"}
        if self.type == "json_schema" and self.json_schema is None:
            raise Problem(422, "the field 'response_format.json_schema' is missing; add it.")
        return self.json_schema.content if self.type == "json_schema" and self.json_schema else None


class GenerationBody(BaseModel, extra="allow"):
    """Fields of both kinds of completions."""

    model: str = Field(description="A task that generates text.")
    max_tokens: int | None = Field(default=None, description="Maximum number of new tokens.")
    temperature: float | None = Field(
        default=None, description="0 takes the likeliest token; without it, the task decides."
    )
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    num_beams: int | None = Field(default=None, description="Beam width; a stream has one beam.")
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat = ResponseFormat()
    regex: str | None = Field(default=None, description="Regular expression that the whole text matches.")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def options(self) -> GenerationKwargs:
        """Return the options of generation. Raises Problem for a field that no task has."""
        for name, neutral in _UNSUPPORTED.items():
            value = (self.model_extra or {}).get(name)
            if value not in neutral:
                raise Problem(422, f"the field {name!r} has no use here; leave it out.")
        limit = (self.model_extra or {}).get("max_completion_tokens", self.max_tokens)
        return {
            "max_new_tokens": limit,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "num_beams": self.num_beams,
            "seed": self.seed,
            "stop": self.stop,
            "json_schema": self.response_format.schema_of_text(),
            "regex": self.regex,
        }


class CompletionBody(GenerationBody):
    """Body of `/v1/completions`."""

    prompt: str | list[str] = Field(description="A text, or a list of texts.")


class Part(BaseModel, extra="allow"):
    """A part of a message."""

    type: str
    text: str | None = None


class Message(BaseModel, extra="allow"):
    """A message of a chat."""

    role: str
    content: str | list[Part] | None = None


class ChatBody(GenerationBody):
    """Body of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, description="Their texts, joined by line breaks, are the input.")

    def text(self) -> str:
        """Return the input of the task. Raises Problem for parts that are no text."""
        return "\n".join(text for message in self.messages if (text := _content(message)))


@dataclass(frozen=True)
class _Form:
    """Form of a completion."""

    id: str
    object: str
    """Name of a whole answer."""
    piece_object: str
    """Name of a piece of a stream."""
    whole: Callable[[str], dict[str, Any]]
    """Returns a choice's entries for a whole text."""
    piece: Callable[[str], dict[str, Any]]
    """Returns a choice's entries for a piece of a text."""

    def head(self, task: str, name: str) -> dict[str, Any]:
        """Return the entries of every answer."""
        return {"id": self.id, "object": name, "created": int(time.time()), "model": task}


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])

    @routes.get("/models", summary="List the tasks")
    async def models() -> Response:
        data = [_model(name) for name in service.model.tasks]
        return bodies.json_response({"object": "list", "data": data})

    @routes.get("/models/{name}", summary="Show a task")
    async def model(name: str) -> Response:
        return bodies.json_response(_model((await service.task(name)).name))

    @routes.post("/embeddings", summary="Embed texts", openapi_extra=bodies.body_of(EmbeddingsBody))
    async def embeddings(request: Request) -> Response:
        return await _embeddings(service, request, await bodies.read(request, EmbeddingsBody))

    @routes.post("/completions", summary="Generate text", openapi_extra=bodies.body_of(CompletionBody))
    async def completions(request: Request) -> Response:
        body = await bodies.read(request, CompletionBody)
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        return await _complete(service, request, body, texts, _completion_form())

    @routes.post("/chat/completions", summary="Generate text from a message", openapi_extra=bodies.body_of(ChatBody))
    async def chat(request: Request) -> Response:
        body = await bodies.read(request, ChatBody)
        return await _complete(service, request, body, [body.text()], _chat_form())

    return routes


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "mpt-edge"}


async def _embeddings(service: Service, http: Request, body: EmbeddingsBody) -> Response:
    check_width(service, body.dimensions)
    name = http.query_params.get("task", body.model)
    task = None if name == service.model.manifest.backbone.get("id") else name
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = await asking.vectors_of(service, http, texts, task)
    data = []
    for i, row in enumerate(vectors.rows):
        raw = base64.b64encode(row.astype("<f4").tobytes()).decode()
        vector = raw if body.encoding_format == "base64" else np.asarray(row).tolist()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    count = sum(vectors.tokens)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return bodies.json_response({"object": "list", "data": data, "model": name, "usage": usage})


async def _complete(
    service: Service, http: Request, body: GenerationBody, texts: Sequence[str], form: _Form
) -> Response:
    options, name = body.options(), http.query_params.get("task", body.model)
    if not isinstance(service.model, GenerativeModel):
        raise Problem(422, f"the tasks of {service.model.bundle.folder} generate no text; use /predict.")
    task = await service.task(name)
    if not issubclass(task.head.answer_type, Generation):
        raise Problem(422, f"{name!r} chooses a label and generates no text; use /predict.")
    if body.stream:
        bodies.check_texts(len(texts), service.limits)
        if len(texts) > 1:
            raise Problem(422, "a stream has one text; send the others in requests of their own.")
        return await _streamed(service, body, texts[0], name, form)
    answers, requests = await asking.answers_to(service, http, texts, name, options)
    tokens = sum(len(request.row.ids) for request in requests)
    new = sum(answer.new_tokens for answer in answers if isinstance(answer, Generation))
    choices = [_choice(answer, i, form) for i, answer in enumerate(answers)]
    head = form.head(name, form.object)
    return bodies.json_response({**head, "choices": choices, "usage": _usage(tokens, new)})


def _choice(answer: Answer, i: int, form: _Form) -> dict[str, Any]:
    assert isinstance(answer, Generation)
    return {"index": i, **form.whole(answer.text), "logprobs": None, "finish_reason": _FINISH[answer.finish]}


async def _streamed(service: Service, body: GenerationBody, text: str, name: str, form: _Form) -> Response:
    prepared = asking.checked(await service.prepare([text], [name], body.options()))
    pieces = await service.stream(text, name, body.options())
    first = await anext(pieces)  # errors before the first piece still have a status
    events = _events(service, first, pieces, body, name, form, tokens=len(prepared[0].row.ids))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(
    service: Service,
    first: str | Generation,
    pieces: AsyncGenerator[str | Generation],
    body: GenerationBody,
    name: str,
    form: _Form,
    *,
    tokens: int,
) -> AsyncIterator[str]:
    """Yield a stream's events: its pieces, its end, and its usage if that is asked for."""
    head = form.head(name, form.piece_object)

    def event(piece: str | Generation) -> str:
        finish = _FINISH[piece.finish] if isinstance(piece, Generation) else None
        entries = form.piece("" if isinstance(piece, Generation) else piece)
        choice = {"index": 0, **entries, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice]})

    yield event(first)
    answer = first
    try:
        async for piece in pieces:
            yield event(piece)
            answer = piece
    except Exception as error:  # the status has been sent
        yield _event(problems.form(problems.of_error(error), "/v1/"))
        return
    finally:
        await pieces.aclose()
    assert isinstance(answer, Generation)  # the last of the pieces
    asking.count(service, [answer])
    if body.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(tokens, answer.new_tokens)})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _usage(tokens: int, new: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "completion_tokens": new, "total_tokens": tokens + new}


def _completion_form() -> _Form:
    def text(piece: str) -> dict[str, Any]:
        return {"text": piece}

    return _Form(f"cmpl-{uuid.uuid4().hex}", "text_completion", "text_completion", text, text)


def _chat_form() -> _Form:
    def message(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def delta(piece: str) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": piece}}

    return _Form(f"chatcmpl-{uuid.uuid4().hex}", "chat.completion", "chat.completion.chunk", message, delta)


def _content(message: Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    other = next((part.type for part in message.content if part.type != "text"), None)
    if other is not None:
        raise Problem(422, f"a message has a part of type {other!r}; send text alone.")
    return "".join(part.text or "" for part in message.content)
