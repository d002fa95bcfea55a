"""The protocol of Text Embeddings Inference: /predict, /embed, /info and /health."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

import mpt_edge
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.answers import Answer, Embedding, Prediction
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.task import Task
from mpt_edge.server import asking, bodies
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service, State

#: A text, or a list of texts and of pairs.
Given = str | list[str | list[str]]


class Parameters(BaseModel):
    """Parameters as `huggingface_hub.InferenceClient` sends them."""

    top_k: int | None = Field(default=None, ge=1)
    function_to_apply: str | None = None
    truncate: bool | None = None
    normalize: bool | None = None


class PredictBody(BaseModel):
    """Body of `/predict`."""

    inputs: Given = Field(description="A text, or a list of texts. A pair is a list of two texts.")
    task: str | None = Field(default=None, description="The task, unless the address names it.")
    raw_scores: bool = Field(default=False, description="Return cosine similarities in place of probabilities.")
    truncate: bool = Field(default=True, description="Cut texts that are too long; false refuses them.")
    parameters: Parameters = Parameters()


class EmbedBody(BaseModel):
    """Body of `/embed`."""

    inputs: Given = Field(description="A text, or a list of texts.")
    task: str | None = Field(
        default=None, description="The task under whose prompt texts are read; none for the bare model."
    )
    normalize: bool = Field(default=True, description="Scale each vector to length one.")
    truncate: bool = Field(default=True, description="Cut texts that are too long; false refuses them.")
    dimensions: int | None = Field(default=None, description="Must be the model's own number, if given.")
    parameters: Parameters = Parameters()


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["Text Embeddings Inference"])

    @routes.post("/predict", summary="Label texts", openapi_extra=bodies.body_of(PredictBody))
    async def predict(request: Request) -> Response:
        body = await bodies.read(request, PredictBody)
        task = await asking.task_of(service, request, body.task)
        return await _predict(service, request, body, task)

    @routes.post("/embed", summary="Embed texts", openapi_extra=bodies.body_of(EmbedBody))
    async def embed(request: Request) -> Response:
        return await _embed(service, request, await bodies.read(request, EmbedBody))

    @routes.post(
        "/", summary="Label or embed texts, by the kind of the task", openapi_extra=bodies.body_of(PredictBody)
    )
    async def root(request: Request) -> Response:
        body = await bodies.read(request, PredictBody)
        task = await asking.task_of(service, request, body.task)
        if issubclass(task.head.answer_type, Embedding):
            return await _embed(service, request, await bodies.read(request, EmbedBody))
        return await _predict(service, request, body, task)

    @routes.get("/info", summary="Describe the model, and a task with ?task=")
    async def info(request: Request) -> Response:
        name = request.query_params.get("task")
        return bodies.json_response(_info(service, None if name is None else await service.task(name)))

    @routes.get("/health", summary="Tell whether texts are answered")
    async def health() -> Response:
        if service.state is not State.READY:
            service.check_ready()
        return bodies.json_response({"status": service.state})

    return routes


async def _predict(service: Service, http: Request, body: PredictBody, task: Task[Any]) -> Response:
    if not issubclass(task.head.answer_type, Prediction):
        raise Problem(422, f"{task.name!r} answers with {task.head.answer_type.__name__}; use {_route(task)}.")
    texts, is_single = asking.texts_of(body.inputs, task.file.inputs)
    may_truncate = body.truncate and body.parameters.truncate is not False
    answers, _ = await asking.answers_to(service, http, texts, task.name, may_truncate=may_truncate)
    rows = [_labels(answer, body) for answer in answers]
    # huggingface_hub sends parameters, and reads the form of the hub's own API: a list of lists even for one text.
    is_flat = is_single and "parameters" not in body.model_fields_set
    return bodies.json_response(rows[0] if is_flat else rows)


def _labels(answer: Answer, body: PredictBody) -> list[dict[str, Any]]:
    """Return the labels of an answer, the likeliest first."""
    assert isinstance(answer, Prediction)
    scores = answer.similarities if body.raw_scores else answer.scores
    if not scores:
        raise Problem(422, f'{answer.task!r} has no cosine similarities; leave "raw_scores" out.')
    ranked = sorted(scores.items(), key=lambda item: -item[1])[: body.parameters.top_k]
    return [{"score": score, "label": label} for label, score in ranked]


def _route(task: Task[Any]) -> str:
    """Return the route for tasks that choose no label."""
    routes = {"Embedding": "/embed", "Generation": "/v1/completions"}
    return routes.get(task.head.answer_type.__name__, "/run")


async def _embed(service: Service, http: Request, body: EmbedBody) -> Response:
    given = asking.named(http, body.task)
    check_width(service, body.dimensions)
    kind = Inputs.TEXT if given is None else (await service.task(given)).file.inputs
    texts, _ = asking.texts_of(body.inputs, kind)
    vectors = await asking.vectors_of(
        service, http, texts, given,
        normalize=body.normalize and body.parameters.normalize is not False,
        may_truncate=body.truncate and body.parameters.truncate is not False,
    )  # fmt: skip
    return bodies.json_response([row.tolist() for row in vectors.rows])


def check_width(service: Service, dimensions: int | None) -> None:
    """Refuse another width than the model's. Raises Problem."""
    width = service.model.manifest.hidden_size
    if dimensions not in (None, width):
        raise Problem(422, f"vectors of this model have {width} channels, not {dimensions}; leave dimensions out.")


def _info(service: Service, task: Task[Any] | None) -> dict[str, Any]:
    """Return the facts that clients of Text Embeddings Inference ask for, and the tasks."""
    model, limits = service.model, service.limits
    manifest = model.manifest
    return {
        "model_id": manifest.backbone.get("id"),
        "model_sha": manifest.backbone.get("revision"),
        "model_dtype": model.precision,
        "model_type": _kind(model, task),
        "max_concurrent_requests": limits.queue,
        "max_input_length": manifest.max_length if task is None else task.max_length,
        "max_batch_tokens": limits.batch_tokens,
        "max_batch_requests": limits.batch_texts,
        "max_client_batch_size": limits.texts,
        "auto_truncate": True,
        "version": mpt_edge.__version__,
        "tasks": model.tasks,
    }


def _kind(model: Any, task: Task[Any] | None) -> dict[str, Any]:
    if task is not None and task.labels:
        names = {str(i): label for i, label in enumerate(task.labels)}
        return {"classifier": {"id2label": names, "label2id": {label: int(i) for i, label in names.items()}}}
    if isinstance(model, GenerativeModel):
        return {"generation": {}}
    return {"embedding": {"pooling": str(model.manifest.pooling)}}
