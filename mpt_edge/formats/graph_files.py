"""Files that an ONNX graph reads its weights from, found without the onnx package and without running anything.

A graph is a protobuf message. All messages are skipped but those that can hold a tensor and hold the word that names
a file, so a graph of 80 KB takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpt_edge._files import read_small
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.manifest import MANIFEST

#: Key of a tensor's external file.
_KEY = b"location"

#: Messages by name, with the fields in which tensors can be: ModelProto, GraphProto and so on in onnx.proto.
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}

#: Largest depth of graphs in graphs.
_MAX_DEPTH = 64

#: Size limit of a graph, whose weights are in another file.
_MAX_GRAPH = 256 << 20


def check_weights(graph: Path, weights: str) -> None:
    """Check that a graph reads weights from the file named ``weights`` beside it alone. Raises CorruptFileError."""
    data = read_small(graph, _MAX_GRAPH)
    try:
        named = external_files(data)
    except ValueError as error:
        raise CorruptFileError(f"{graph} is no ONNX graph ({error}); export the bundle again.") from error
    foreign = sorted(named - {weights})
    if foreign:
        raise CorruptFileError(
            f"{graph} reads weights from {foreign[0]!r}, which {MANIFEST} does not list; export the bundle again."
        )


def external_files(graph: bytes) -> set[str]:
    """Return the paths of the files that a graph names for its tensors.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    paths: set[bytes] = set()
    _collect(graph, 0, len(graph), "model", paths)
    return {path.decode("utf-8", "backslashreplace") for path in paths}


def _collect(data: bytes, start: int, end: int, kind: str, paths: set[bytes], depth: int = 0) -> None:
    """Add the paths in a message."""
    if depth > _MAX_DEPTH:
        raise ValueError("graphs are nested too deeply")
    fields = _FIELDS[kind]
    for field, first, last in _parts(data, start, end):
        child = fields.get(field)
        if child is None or data.find(_KEY, first, last) < 0:
            continue
        if child == "entry":
            parts = [(number, data[begin:stop]) for number, begin, stop in _parts(data, first, last)]
            if (1, _KEY) in parts:  # of a field that comes twice, readers take the last
                paths.update(value for number, value in parts if number == 2)
        else:
            _collect(data, first, last, child, paths, depth + 1)


def _parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message that has a length."""
    position = start
    while position < end:
        tag, position = (data[position], position + 1) if data[position] < 128 else _number(data, position, end)
        kind = tag & 7
        if kind == 2:
            is_short = position < end and data[position] < 128
            size, position = (data[position], position + 1) if is_short else _number(data, position, end)
            last = position + size
            if last > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, position, last
            position = last
        elif kind == 0:
            _, position = _number(data, position, end)
        elif kind in {1, 5}:
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is unknown")
    if position != end:
        raise ValueError("a field is longer than its message")


def _number(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a variable-length number and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), position
        shift += 7
    raise ValueError("a number does not end")
