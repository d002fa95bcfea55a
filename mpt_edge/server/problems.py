"""Errors as HTTP answers: a status, the sentence of the command line, and the form of each protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from mpt_edge.errors import BundleNotFoundError, CorruptFileError, InputError, MptEdgeError, UnknownTaskError

#: Seconds after which a client is asked to try again while the model is loaded or the server stops.
_RETRY_AFTER = "5"

#: OpenAI's names for kinds of errors, by status; others are `_SERVER` or `_REQUEST`.
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_REQUEST, _SERVER = "invalid_request_error", "server_error"

#: OpenAI's codes, by status.
_OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}

#: Names of kinds of errors in Text Embeddings Inference, by status; others are "Validation" or "Backend".
_TEI_TYPES = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 429: "Overloaded", 503: "Unhealthy"}


class Problem(Exception):  # noqa: N818 - named as in RFC 9457
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        headers: further headers of the answer.
        is_task_unknown: whether there is no task of the name that was given.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        *,
        is_task_unknown: bool = False,
    ) -> None:
        """Keep the status and the sentence, which names the fix."""
        super().__init__(sentence)
        self.status, self.headers, self.is_task_unknown = status, dict(headers or {}), is_task_unknown


def of_error(error: BaseException) -> Problem:
    """Return the problem of an error of ours, or of any other."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnknownTaskError):
        return Problem(404, str(error), is_task_unknown=True)
    if isinstance(error, CorruptFileError | BundleNotFoundError):
        return Problem(500, str(error))
    if isinstance(error, MptEdgeError):
        return Problem(422, str(error))
    if isinstance(error, MemoryError):
        return Problem(500, "the server is out of memory; send fewer or shorter texts.")
    return Problem(500, "the server failed at this request; its log has the reason.")


def of_text(error: BaseException, number: int, count: int) -> Problem:
    """Return the problem of one of a request's texts, named by its number where there are several."""
    problem = of_error(error)
    if isinstance(error, InputError) and count > 1:
        return Problem(problem.status, f"text {number}: {problem}")
    return problem


def unavailable(sentence: str) -> Problem:
    """Return the problem of a server that loads or stops."""
    return Problem(503, sentence, {"Retry-After": _RETRY_AFTER})


def answer_to(problem: Problem, path: str) -> Response:
    """Return the answer in the form of the protocol to which a path belongs."""
    body = json.dumps(form(problem, path)).encode()
    return Response(body, problem.status, problem.headers, "application/json")


def form(problem: Problem, path: str) -> dict[str, Any]:
    """Return a problem in the form of the protocol to which a path belongs."""
    sentence, status = str(problem), problem.status
    if path.startswith("/v1/"):
        kind = _OPENAI_TYPES.get(status, _SERVER if status >= 500 else _REQUEST)
        code = "model_not_found" if problem.is_task_unknown else _OPENAI_CODES.get(status)
        return {"error": {"message": sentence, "type": kind, "param": None, "code": code}}
    if path == "/v2" or path.startswith("/v2/"):
        return {"error": sentence}
    return {"error": sentence, "error_type": _TEI_TYPES.get(status, "Backend" if status >= 500 else "Validation")}
