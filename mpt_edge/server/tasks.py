"""The tasks of the bundle: list and show them, and with an admin key install, roll back and remove them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from mpt_edge.errors import CorruptFileError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.model import Model
from mpt_edge.server import bodies
from mpt_edge.server.keys import Access, Keys
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service

_T = TypeVar("_T")

#: Documentation of the body of an upload.
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def router(service: Service, keys: Keys) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/tasks", tags=["Tasks"])

    @routes.get("", summary="List the tasks")
    async def list_() -> Response:
        tasks = await service.in_thread(partial(_summaries, service.model))
        return bodies.json_response({"tasks": tasks})

    @routes.get("/{name}", summary="Show a task's metadata")
    async def show(name: str) -> Response:
        return bodies.json_response(await service.in_thread(partial(_details, service.model, name)))

    @routes.get("/{name}/vectors", summary="Return the two vectors of a task")
    async def vectors(name: str) -> Response:
        return bodies.json_response(await service.in_thread(partial(_vectors, service.model, name)))

    @routes.post("", summary="Install a task file (admin key)", status_code=201, openapi_extra=_UPLOAD)
    async def install(request: Request) -> Response:
        data = await request.body()
        may_fall = request.query_params.get("allow_downgrade") == "true"
        file = await _changed(service, keys, request, partial(_install, service.model, data, may_fall))
        response = bodies.json_response(_summary(service.model.bundle, file))
        response.status_code = 201
        return response

    @routes.post("/{name}/rollback", summary="Restore the version that an install replaced (admin key)")
    async def rollback(request: Request, name: str) -> Response:
        file = await _changed(service, keys, request, partial(_rollback, service.model, name))
        return bodies.json_response(_summary(service.model.bundle, file))

    @routes.delete("/{name}", summary="Remove a task (admin key)", status_code=204)
    async def remove(request: Request, name: str) -> Response:
        await _changed(service, keys, request, partial(_remove, service.model, name))
        return Response(status_code=204)

    return routes


async def _changed(service: Service, keys: Keys, request: Request, change: Callable[[], _T]) -> _T:
    """Change the bundle, one change after the other. Raises Problem without an admin key."""
    if request.scope["access"] < Access.ADMIN:
        fix = (
            "send an admin key of this server" if keys.has_admin else
            "start the server with --api-key-file and a line 'admin:KEY', or use `mpt-edge tasks`"
        )  # fmt: skip
        raise Problem(403, f"this request may not change tasks; {fix}.")
    async with service.changes:
        return await service.in_thread(change)


def _install(model: Model, data: bytes, allow_downgrade: bool) -> TaskFile:
    """Install an uploaded file, once it has answered its reference example here.

    Requests that run keep the version they have.
    """
    if not data:
        raise Problem(400, "the request has no body; send the bytes of a task file.")
    with tempfile.TemporaryDirectory(prefix="mpt-edge-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            (task,) = model.install(path, allow_downgrade=allow_downgrade)
        except CorruptFileError as error:  # the client's file, unlike a file of the bundle
            raise Problem(422, str(error).replace(str(path), "the upload")) from error
    return task.file


def _rollback(model: Model, name: str) -> TaskFile:
    file = model.bundle.rollback(name)
    model.drop_task(name)
    model.task(name)  # selected here, so that the next request does not wait for it
    return file


def _remove(model: Model, name: str) -> None:
    model.bundle.remove(name)
    model.drop_task(name)


def _bundle(model: Model) -> Bundle:
    """Return the model's bundle as it is on disk now."""
    model.bundle.reload()
    return model.bundle


def _summaries(model: Model) -> list[dict[str, Any]]:
    """Return a summary of each task; one that cannot be used has the reason."""
    bundle, result = _bundle(model), []
    for name in bundle.task_names:
        try:
            result.append(_summary(bundle, bundle.task(name)))
        except (CorruptFileError, MismatchError) as error:
            result.append({"task": name, "error": str(error)})
        except UnknownTaskError:  # removed meanwhile
            continue
    return result


def _details(model: Model, name: str) -> dict[str, Any]:
    bundle = _bundle(model)
    file = bundle.task(name)
    facts = {key: value for key, value in vars(file).items() if key not in ("name", "u", "v", "own_prompt")}
    signature = file.signature
    expires = signature and signature.expires and str(signature.expires)
    facts["signature"] = signature and {"signer": signature.key, "expires": expires}
    return _summary(bundle, file) | facts | {"u": list(file.u.shape), "v": list(file.v.shape)}


def _vectors(model: Model, name: str) -> dict[str, Any]:
    file = _bundle(model).task(name)
    return {"task": name, "u": file.u.astype(float).tolist(), "v": file.v.astype(float).tolist()}


def _summary(bundle: Bundle, file: TaskFile) -> dict[str, Any]:
    try:
        size: int | None = bundle.task_bytes(file.name)
    except KeyError:  # changed meanwhile
        size = None
    return {
        "task": file.name,
        "head_type": file.head_type,
        "inputs": file.inputs,
        "labels": list(file.labels),
        "bytes": size,
        "contents": file.contents,
        "version": file.version,
        "license": file.license,
        "test": dict(file.metrics.get("test", {})),
    }
