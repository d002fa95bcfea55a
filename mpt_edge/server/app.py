"""The app: routes of all protocols, one form of errors for each, and the gate before them."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

import mpt_edge
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.taskfile import MAX_TASK_BYTES
from mpt_edge.server import oip, openai, problems, rows, tasks, tei
from mpt_edge.server.gate import Gate
from mpt_edge.server.keys import Keys
from mpt_edge.server.metrics import CONTENT_TYPE
from mpt_edge.server.pages import add_pages
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service

_ABOUT = "Many language tasks on one frozen model. A task is named by ?task=, or by the body's field."


def create_app(service: Service, keys: Keys | None = None, hosts: Collection[str] | None = None) -> Gate:
    """Return the ASGI app of a service.

    Args:
        service: the model and its queues.
        keys: keys that open it; without any, everyone may use it and nobody may change its tasks.
        hosts: names in the ``Host`` header; None allows all.
    """
    keys = keys or Keys()
    app = FastAPI(title="mpt-edge", version=mpt_edge.__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    for routes in (
        rows.router(service), tei.router(service), openai.router(service), oip.router(service),
        tasks.router(service, keys), _metrics(service),
    ):  # fmt: skip
        app.include_router(routes)
    add_pages(app)
    app.add_exception_handler(Problem, _answer)
    app.add_exception_handler(MptEdgeError, _answer)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _answer)
    return Gate(app, service, keys, hosts, MAX_TASK_BYTES)


def _metrics(service: Service) -> APIRouter:
    routes = APIRouter(tags=["Monitoring"])

    @routes.get("/metrics", summary="Return metrics for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes


async def _answer(request: Request, error: Exception) -> Response:
    return problems.answer_to(problems.of_error(error), request.url.path)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    sentence = (
        f"{path} has no method {method}; see /docs." if error.status_code == 405 else f"there is no {path}; see /docs."
    )
    return problems.answer_to(Problem(error.status_code, sentence, error.headers), path)
