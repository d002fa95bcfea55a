"""Bodies of requests as JSON, checked by a schema that the documentation shows too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from mpt_edge.server.limits import Limits
from mpt_edge.server.problems import Problem

M = TypeVar("M", bound=BaseModel)


async def read(request: Request, model: type[M]) -> M:
    """Return a request's body.

    Raises:
        Problem: it is no JSON (400), or not of the model's form (422).
    """
    body = await request.body()
    if not body:
        raise Problem(400, "the request has no body; send a JSON object.")
    return parse(body, model)


def parse(body: bytes, model: type[M]) -> M:
    """Return a body of JSON. Raises Problem; see `read`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _problem(first["type"], first["loc"], first["msg"]) from None


def _problem(kind: str, place: Sequence[int | str], message: str) -> Problem:
    if kind == "json_invalid":
        return Problem(400, f"the body is no JSON ({message}); send a JSON object.")
    if not place:
        return Problem(422, "the body is no JSON object; send one.")
    if kind in ("missing", "extra_forbidden"):
        field = ".".join(map(str, place))
        is_missing = kind == "missing"
        return Problem(
            422,
            f"the field {field!r} is missing; add it." if is_missing else f"there is no field {field!r}; leave it out.",
        )
    return Problem(422, f"the field {str(place[0])!r} cannot be used ({message}); correct it.")


def check_texts(count: int, limits: Limits) -> None:
    """Refuse a request without texts (422), or with more than the server takes at once (413). Raises Problem."""
    if count == 0:
        raise Problem(422, "there are no texts; send at least one.")
    if count > limits.texts:
        raise Problem(413, f"{count:,} texts are more than the {limits.texts:,} of a request; send them in parts.")


def json_response(content: Any) -> Response:
    """Return a response of JSON.

    Numbers keep all their digits. All characters but ASCII are escapes, so no terminal obeys one of them.
    """
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the entry of a route's documentation for its body."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema, definitions)}}}
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its references replaced."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
