"""The protocol of `mpt-edge run`: rows in, and for each row its answer or its own error."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.text import Text
from mpt_edge.server import asking, bodies, problems
from mpt_edge.server.service import Service


class Row(BaseModel, extra="forbid"):
    """A row: a text, or a pair of texts, and its task."""

    text: str
    text_pair: str | None = None
    task: str | None = Field(default=None, description="The task, unless the address or the request names it.")

    def text_or_pair(self) -> Text:
        """Return the input."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


class RunBody(BaseModel, extra="forbid"):
    """Body of `/run`."""

    rows: list[Row]
    task: str | None = Field(default=None, description="Task of rows that name none.")
    options: dict[str, Any] = Field(default={}, description="Options for text generation, of all rows.")


def router(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["Rows of several tasks"])

    @routes.post("/run", summary="Answer rows, each under its own task", openapi_extra=bodies.body_of(RunBody))
    async def run(request: Request) -> Response:
        body = await bodies.read(request, RunBody)
        bodies.check_texts(len(body.rows), service.limits)
        default = asking.named(request, body.task)
        texts = [row.text_or_pair() for row in body.rows]
        tasks = [row.task or default or "" for row in body.rows]
        options = cast("GenerationKwargs", body.options)  # checked where they are used
        return bodies.json_response({"answers": await _answers(service, request, texts, tasks, options)})

    return routes


async def _answers(
    service: Service, http: Request, texts: list[Text], tasks: list[str], options: GenerationKwargs
) -> list[dict[str, Any]]:
    named = {i for i, task in enumerate(tasks) if task}
    prepared = await service.prepare([texts[i] for i in sorted(named)], [tasks[i] for i in sorted(named)], options)
    results: dict[int, Answer | Exception] = {
        i: problems.Problem(422, 'the row names no task; add the field "task".') for i in set(range(len(texts))) - named
    }
    requests = {}
    for i, each in zip(sorted(named), prepared, strict=True):
        if isinstance(each, Exception):
            results[i] = each
        else:
            requests[i] = each
    answers = await service.answer(list(requests.values()), http.is_disconnected)
    asking.count(service, answers)
    results |= zip(requests, answers, strict=True)
    return [_entry(results[i], tasks[i]) for i in range(len(texts))]


def _entry(result: Answer | Exception, task: str) -> dict[str, Any]:
    if isinstance(result, Answer):
        return result.to_dict()
    return ({"task": task} if task else {}) | {"error": str(problems.of_error(result))}
