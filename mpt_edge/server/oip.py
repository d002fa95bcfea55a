"""The Open Inference Protocol, version 2, as Triton and KServe speak it. A model is a task."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

import mpt_edge
from mpt_edge.formats.generation_options import NAMES, GenerationKwargs
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.answers import Answer, Embedding, Generation, Prediction, Span
from mpt_edge.inference.task import Task
from mpt_edge.inference.text import Text
from mpt_edge.server import asking, bodies
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import Service, State

#: Header with the length of the JSON in a body that has binary tensors after it.
_HEADER = "Inference-Header-Content-Length"

#: Numpy's types, by those of the protocol.
_TYPES = {"FP32": "<f4", "INT64": "<i8"}

#: Name of the output with a whole answer as JSON, which every task has.
_ANSWER = "answer"

#: Name and type of an output, and its value in an answer.
_Field = tuple[str, str, Callable[[Any], Any]]

_FIELDS: dict[type[Answer], tuple[_Field, ...]] = {
    Prediction: (
        ("label", "BYTES", attrgetter("label")),
        ("score", "FP32", attrgetter("score")),
        ("scores", "FP32", lambda answer: list(answer.scores.values())),
    ),
    Embedding: (("vector", "FP32", lambda answer: answer.vector.tolist()),),
    Generation: (
        ("output", "BYTES", attrgetter("text")),
        ("input_tokens", "INT64", attrgetter("input_tokens")),
        ("new_tokens", "INT64", attrgetter("new_tokens")),
        ("finish", "BYTES", attrgetter("finish")),
        ("first_token_seconds", "FP32", attrgetter("first_token_seconds")),
        ("seconds", "FP32", attrgetter("seconds")),
    ),
    Span: (
        ("output", "BYTES", attrgetter("text")),
        ("score", "FP32", attrgetter("score")),
        ("start", "INT64", attrgetter("start")),
        ("end", "INT64", attrgetter("end")),
    ),
}


class InputTensor(BaseModel, extra="allow"):
    """An input: texts, or the second texts of pairs."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class OutputName(BaseModel, extra="allow"):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(BaseModel, extra="allow"):
    """Body of `/infer`."""

    inputs: list[InputTensor] = Field(description='"text", and "text_pair" for pairs, of type BYTES.')
    outputs: list[OutputName] | None = None
    id: str | None = None
    parameters: dict[str, Any] = Field(default={}, description="Options for text generation.")


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @routes.get("/health/live", summary="Tell whether the server runs")
    async def live() -> Response:
        return bodies.json_response({"live": True})

    @routes.get("/health/ready", summary="Tell whether texts are answered")
    async def ready() -> Response:
        if service.state is not State.READY:
            service.check_ready()
        return bodies.json_response({"ready": True})

    @routes.get("", summary="Describe the server")
    async def server() -> Response:
        extensions = ["binary_tensor_data"]
        return bodies.json_response({"name": "mpt-edge", "version": mpt_edge.__version__, "extensions": extensions})

    for prefix in ("/models/{name}", "/models/{name}/versions/{version}"):
        _add_model_routes(routes, service, prefix)
    return routes


def _add_model_routes(routes: APIRouter, service: Service, prefix: str) -> None:
    async def selected(request: Request) -> Task[Any]:
        name, version = request.path_params["name"], request.path_params.get("version")
        task = await service.task(name)
        if version not in (None, str(task.file.version)):
            raise Problem(404, f"{name!r} has version {task.file.version}, not {version}; leave the version out.")
        return task

    @routes.get(prefix, summary="Describe a task")
    async def metadata(request: Request) -> Response:
        return bodies.json_response(_metadata(await selected(request), service.model.manifest.hidden_size))

    @routes.get(f"{prefix}/ready", summary="Tell whether a task can be used")
    async def ready(request: Request) -> Response:
        task = await selected(request)
        return bodies.json_response({"name": task.name, "ready": True})

    @routes.post(f"{prefix}/infer", summary="Answer texts", openapi_extra=bodies.body_of(InferBody))
    async def infer(request: Request) -> Response:
        return await _infer(service, request, await selected(request))


async def _infer(service: Service, http: Request, task: Task[Any]) -> Response:
    raw = await http.body()
    length = _json_length(http, len(raw))
    body = bodies.parse(raw[:length], InferBody)
    texts = _texts(body, raw[length:], task)
    answers, _ = await asking.answers_to(service, http, texts, task.name, _options(body))
    outputs = _outputs(answers)
    names = [each.name for each in body.outputs] if body.outputs else [name for name in outputs if name != _ANSWER]
    names = names or [_ANSWER]
    unknown = next((name for name in names if name not in outputs), None)
    if unknown is not None:
        raise Problem(422, f"{task.name!r} has no output {unknown!r}, only {', '.join(outputs)}; ask for one of these.")
    asked = {each.name: each.parameters for each in body.outputs or ()}
    is_binary = bool(body.parameters.get("binary_data_output"))
    binary = [name for name in names if asked.get(name, {}).get("binary_data", is_binary)]
    head = {"model_name": task.name, "model_version": str(task.file.version)}
    if body.id is not None:
        head["id"] = body.id
    return _response(head, {name: outputs[name] for name in names}, binary)


def _json_length(http: Request, size: int) -> int:
    given = http.headers.get(_HEADER)
    if given is None:
        return size
    if not given.isascii() or not given.isdigit() or int(given[:20]) > size:
        raise Problem(400, f"the header {_HEADER} is {given!r}, and the body has {size} bytes; correct it.")
    return int(given)


def _options(body: InferBody) -> GenerationKwargs:
    """Return the options of generation among a request's parameters; others are for other servers."""
    return {name: value for name, value in body.parameters.items() if name in NAMES}  # type: ignore[return-value]


def _texts(body: InferBody, binary: bytes, task: Task[Any]) -> list[Text]:
    """Return the texts or pairs of a request's inputs. Raises Problem."""
    needed = ["text", "text_pair"] if task.file.inputs is Inputs.PAIR else ["text"]
    columns = {}
    for tensor in body.inputs:
        columns[tensor.name], binary = _column(tensor, binary)
    if sorted(columns) != sorted(needed):
        raise Problem(
            422, f"{task.name!r} has the inputs {' and '.join(needed)}, not {', '.join(columns) or 'none'}; send these."
        )
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise Problem(422, "the inputs have different lengths; send a second text for each text.")
    return columns["text"] if len(needed) == 1 else list(zip(columns["text"], columns["text_pair"], strict=True))


def _column(tensor: InputTensor, binary: bytes) -> tuple[list[Any], bytes]:
    """Return the texts of a tensor, and the binary data after it. Raises Problem."""
    if tensor.datatype != "BYTES":
        raise Problem(422, f"the input {tensor.name!r} is of type {tensor.datatype}; send texts as BYTES.")
    size = tensor.parameters.get("binary_data_size")
    if tensor.data is not None:
        texts, rest = _flat(tensor.data), binary
    elif isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= len(binary):
        texts, rest = _unpacked(binary[:size], tensor.name), binary[size:]
    else:
        raise Problem(422, f"the input {tensor.name!r} has no data, or less than it states; send its texts.")
    if min(tensor.shape, default=0) < 0 or int(np.prod(tensor.shape, dtype=object)) != len(texts):
        raise Problem(
            422, f"the input {tensor.name!r} has {len(texts)} texts and the shape {tensor.shape}; correct it."
        )
    return texts, rest


def _flat(data: Sequence[Any]) -> list[Any]:
    """Return the texts of nested lists, as a tensor of several axes may be written."""
    result = []
    for each in data:
        result += _flat(each) if isinstance(each, list) else [each]
    return result


def _unpacked(data: bytes, name: str) -> list[str]:
    """Return the texts of a binary tensor: each after its length in four bytes. Raises Problem."""
    texts, place = [], 0
    try:
        while place < len(data):
            (length,) = struct.unpack_from("<I", data, place)
            text = data[place + 4 : place + 4 + length]
            if len(text) < length:
                raise struct.error("cut short")
            texts.append(text.decode())
            place += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise Problem(422, f"the input {name!r} is no binary tensor of texts in UTF-8; correct it.") from error
    return texts


def _metadata(task: Task[Any], width: int) -> dict[str, Any]:
    names = ["text", "text_pair"] if task.file.inputs is Inputs.PAIR else ["text"]
    sizes = {"scores": [len(task.labels)], "vector": [width]}
    outputs = [(name, datatype, [-1, *sizes.get(name, [])]) for name, datatype, _ in _fields(task.head.answer_type)]
    return {
        "name": task.name,
        "versions": [str(task.file.version)],
        "platform": "mpt-edge",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
        "outputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs],
        "parameters": {"labels": list(task.labels)},
    }


_Outputs = dict[str, tuple[str, list[int], list[Any]]]


def _outputs(answers: Sequence[Answer]) -> _Outputs:
    """Return the type, shape and values of each output."""
    result: _Outputs = {}
    for name, datatype, value in _fields(type(answers[0])):
        values = [value(answer) for answer in answers]
        if isinstance(values[0], list):
            shape, values = [len(values), len(values[0])], [number for row in values for number in row]
        else:
            shape = [len(values)]
        result[name] = datatype, shape, values
    return result


def _fields(kind: type[Answer]) -> list[_Field]:
    """Return the outputs of a class of answers; the last is the whole answer."""
    own = next((fields for base, fields in _FIELDS.items() if issubclass(kind, base)), ())
    return [*own, (_ANSWER, "BYTES", lambda answer: json.dumps(answer.to_dict()))]


def _response(head: dict[str, Any], outputs: _Outputs, binary: Sequence[str]) -> Response:
    """Return a response; the outputs named by ``binary`` follow its JSON as bytes."""
    entries, parts = [], []
    for name, (datatype, shape, values) in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in binary:
            parts.append(_packed(datatype, values))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = values
        entries.append(entry)
    if not parts:
        return bodies.json_response({**head, "outputs": entries})
    text = json.dumps({**head, "outputs": entries}).encode()
    headers = {_HEADER: str(len(text))}
    return Response(text + b"".join(parts), headers=headers, media_type="application/octet-stream")


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype != "BYTES":
        return np.asarray(values, _TYPES[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
