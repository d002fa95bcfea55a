"""From the texts of a request to answers, as all protocols ask for them: all texts, or the first error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request as HttpRequest

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.answers import Answer, Embedding
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.task import Task
from mpt_edge.inference.text import Text
from mpt_edge.server import problems
from mpt_edge.server.bodies import check_texts
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service

Results = list[Answer | Exception]


@dataclass(frozen=True)
class Vectors:
    """Embeddings of a request's texts."""

    rows: list[Floats]
    tokens: list[int]
    """Number of tokens of each text."""


async def task_of(service: Service, http: HttpRequest, field: str | None) -> Task[Any]:
    """Select the task that ``?task=`` or a field of the body names; the only one where there is one.

    Raises:
        Problem: none is named, or two.
        MptEdgeError: it cannot be selected.
    """
    name = named(http, field)
    if name is None:
        tasks = service.model.tasks
        if len(tasks) != 1:
            raise Problem(422, 'no task is named; add ?task=NAME or the field "task", and see /tasks for the names.')
        name = tasks[0]
    return await service.task(name)


def named(http: HttpRequest, field: str | None) -> str | None:
    """Return the task that a request names, if any. Raises Problem for two of them."""
    query = http.query_params.get("task")
    if query is not None and field is not None and query != field:
        raise Problem(422, f"the address names the task {query!r} and the body {field!r}; name one.")
    return field if query is None else query


def texts_of(given: str | Sequence[str | Sequence[str]], inputs: Inputs) -> tuple[list[Text], bool]:
    """Return the texts of ``inputs``, and whether they are a single one.

    A list of two texts is one pair for a task that reads pairs, and two texts for any other.
    """
    if isinstance(given, str):
        return [given], True
    is_flat = all(isinstance(each, str) for each in given)
    if is_flat and inputs is Inputs.PAIR and len(given) == 2:
        return [cast("Text", tuple(given))], True
    return [each if isinstance(each, str) else _text(each) for each in given], False


def _text(parts: Sequence[str]) -> Text:
    if len(parts) == 1:
        return parts[0]
    return cast("Text", tuple(parts))  # more than two are refused where texts are checked


async def answers_to(
    service: Service,
    http: HttpRequest,
    texts: Sequence[Text],
    task: str,
    options: GenerationKwargs | None = None,
    *,
    may_truncate: bool = True,
) -> tuple[list[Answer], list[Request]]:
    """Answer all texts of a request under one task.

    Raises:
        Problem: a text cannot be answered, or is longer than the task reads and may not be cut.
    """
    check_texts(len(texts), service.limits)
    requests = checked(await service.prepare(texts, [task] * len(texts), options))
    if not may_truncate:
        _check_lengths(requests)
    results = await service.answer(requests, http.is_disconnected)
    return _answers(service, results), requests


async def vectors_of(
    service: Service,
    http: HttpRequest,
    texts: Sequence[Text],
    task: str | None,
    *,
    normalize: bool = True,
    may_truncate: bool = True,
) -> Vectors:
    """Embed all texts of a request; raises as `answers_to`."""
    check_texts(len(texts), service.limits)
    requests = checked(await service.prepare_embeddings(texts, task, normalize=normalize))
    if not may_truncate:
        _check_lengths(requests)
    answers = _answers(service, await service.answer(requests, http.is_disconnected))
    rows = [answer.vector for answer in answers if isinstance(answer, Embedding)]
    return Vectors(rows, [len(request.row.ids) for request in requests])


def checked(prepared: Sequence[Request | Exception]) -> list[Request]:
    """Return requests. Raises Problem for the first text that cannot be read."""
    for number, each in enumerate(prepared, 1):
        if isinstance(each, Exception):
            raise problems.of_text(each, number, len(prepared)) from each
    return cast("list[Request]", list(prepared))


def count(service: Service, answers: Sequence[Answer | Exception]) -> None:
    """Count answered texts by task."""
    tasks = Counter(answer.task for answer in answers if isinstance(answer, Answer))
    for task, number in tasks.items():
        service.metrics.count_texts(task, number)


def _check_lengths(requests: Sequence[Request]) -> None:
    for number, request in enumerate(requests, 1):
        if request.row.truncated:
            where = f"text {number}" if len(requests) > 1 else "the text"
            raise Problem(
                422, f"{where} is longer than {request.task.file.name or 'the model'} reads; shorten it, or send "
                '"truncate": true.',
            )  # fmt: skip


def _answers(service: Service, results: Results) -> list[Answer]:
    for number, each in enumerate(results, 1):
        if isinstance(each, Exception):
            raise problems.of_text(each, number, len(results)) from each
    count(service, results)
    return cast("list[Answer]", results)
