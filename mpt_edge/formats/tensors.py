"""Small safetensors files with string metadata: the container of prompts and tasks.

Nothing is unpickled. safetensors checks neither values nor content, so both are checked here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from mpt_edge._files import atomic_write
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.strict_json import parse_json

Array = NDArray[Any]

#: Metadata key of the hash over all other metadata and the tensors.
_HASH = "sha256"

#: Tensor types that a prompt or task file may hold.
DTYPES = ("float16", "float32")


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata; equal content gives equal bytes.

    Values that are not strings are stored as JSON, and None is left out. The file carries a hash of
    its content, so damage shows wherever it is read.
    """
    given = {key: value for key, value in metadata.items() if value is not None}
    text = {key: value if isinstance(value, str) else _to_json(value) for key, value in given.items()}
    text[_HASH] = _content_hash(tensors, text)
    data = _save({key: np.asarray(value, order="C") for key, value in tensors.items()}, text)
    with atomic_write(path) as temporary:
        temporary.write_bytes(_sort_metadata(data))


def _sort_metadata(data: bytes) -> bytes:
    """Return a file with its metadata sorted; safetensors writes it in random order."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def parse(data: bytes, source: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Args:
        data: the whole file.
        source: the file's name in messages.

    Raises:
        CorruptFileError: not safetensors, a type other than float16 or float32, a value that is not finite, no hash,
            or a hash of other content.
    """
    try:
        tensors = _load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(
            f"{source} is not a readable safetensors file; restore it from where it came."
        ) from error
    for name, value in tensors.items():
        if value.dtype.name not in DTYPES:
            raise CorruptFileError(f"{source}: tensor {name!r} is {value.dtype.name}; save it as float16 or float32.")
        if not np.isfinite(value).all():
            raise CorruptFileError(f"{source}: tensor {name!r} holds NaN or infinity; train or export it again.")
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if metadata.pop(_HASH, None) != _content_hash(tensors, metadata):
        raise CorruptFileError(f"{source} is damaged: it is not what was written; fetch it again.")
    return tensors, metadata


def _content_hash(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata as JSON, and of each tensor's name, type, shape and bytes, sorted by name."""
    digest = hashlib.sha256(_to_json(dict(sorted(metadata.items()))).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{fingerprint(value)}".encode())
    return digest.hexdigest()


def fingerprint(*values: Array) -> str:
    """Return the SHA-256 of arrays' types, shapes and little-endian bytes."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value.dtype.name}{list(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def structured(metadata: Mapping[str, str], key: str, kind: type, source: str) -> Any:
    """Return a metadata value parsed as JSON, or an empty ``kind`` where the key is absent.

    Raises:
        CorruptFileError: the value is not JSON of that kind.
    """
    if key not in metadata:
        return kind()
    try:
        value = parse_json(metadata[key])
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate can be neither printed nor tokenized
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{source}: metadata {key!r} is not JSON, or has a key twice; restore the file."
        ) from error
    if not isinstance(value, kind):
        raise CorruptFileError(f"{source}: metadata {key!r} is not a JSON {kind.__name__}; restore it.")
    return value


def number(metadata: Mapping[str, str], key: str, kind: type[int] | type[float], source: str) -> Any:
    """Return a metadata value as a number.

    Raises:
        CorruptFileError: the key is missing, or its value is no such number.
    """
    try:
        return kind(metadata[key])
    except (KeyError, ValueError) as error:
        raise CorruptFileError(f"{source}: metadata {key!r} is missing or no number; restore the file.") from error
