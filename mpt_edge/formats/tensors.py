"""Small safetensors files with string metadata: the container of prompts and tasks.

Nothing here is ever unpickled. Values are checked to be finite, because safetensors itself
checks neither values nor content.
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

from mpt_edge._files import replacing
from mpt_edge.errors import CorruptFileError

Array = NDArray[Any]

#: The metadata entry that has the hash of all others and of the tensors.
_HASH = "sha256"

#: Tensor types a prompt or task file may hold.
DTYPES = ("float16", "float32")


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata, the same ones as the same bytes; values that are not strings are stored as JSON.

    The file has the hash of what it says in its metadata, so that damage shows wherever it is read.
    """
    text = {key: v if isinstance(v, str) else _compact(v) for key, v in metadata.items()}
    text[_HASH] = _content_hash(tensors, text)
    data = _save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, text)
    with replacing(path) as temporary:
        temporary.write_bytes(_ordered(data))


def _ordered(data: bytes) -> bytes:
    """Return a file whose metadata, which safetensors writes in an order of chance, is in order."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def parse(data: bytes, source: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file's bytes.

    Args:
        data: the whole file.
        source: what to call the file in messages.

    Raises:
        CorruptFileError: not safetensors, a type other than float16 or float32, a value that is not finite, or another
            content than was written.
    """
    try:
        tensors = _load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{source} is not a readable safetensors file; restore it from where it came."
        ) from error
    for name, value in tensors.items():
        if value.dtype.name not in DTYPES:
            raise CorruptFileError(f"{source}: tensor {name!r} is {value.dtype.name}; save it as float16 or float32.")
        if not np.isfinite(value).all():
            raise CorruptFileError(f"{source}: tensor {name!r} holds NaN or infinity; train or export it again.")
    metadata: dict[str, str] = header.get("__metadata__") or {}
    stated = metadata.pop(_HASH, None)  # files were once written without
    if stated is not None and stated != _content_hash(tensors, metadata):
        raise CorruptFileError(f"{source} is damaged: it is not what was written; fetch it again.")
    return tensors, metadata


def _content_hash(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata as JSON, and of each tensor's name, type, shape and bytes, all by name."""
    digest = hashlib.sha256(_compact(dict(sorted(metadata.items()))).encode())
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


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def structured(metadata: Mapping[str, str], key: str, kind: type, source: str) -> Any:
    """Return a metadata entry parsed as JSON, or an empty ``kind`` where it is absent.

    Raises:
        CorruptFileError: the entry is not JSON of that kind.
    """
    if key not in metadata:
        return kind()
    try:
        value = json.loads(metadata[key])
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could be neither printed nor tokenized
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{source}: metadata {key!r} is not JSON; restore the file.") from error
    if not isinstance(value, kind):
        raise CorruptFileError(f"{source}: metadata {key!r} is not a JSON {kind.__name__}; restore it.")
    return value
