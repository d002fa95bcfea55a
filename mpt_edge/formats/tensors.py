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

from mpt_edge._files import atomic_write
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.limits import MAX_HEADER
from mpt_edge.formats.strict_json import parse_json

Array = NDArray[Any]

#: Metadata keys of the hash over all other metadata and the tensors, and of the signature of that hash.
HASH, SIGNATURE = "sha256", "signature"

#: Tensor types that a prompt or task file may hold, and their names in the file.
DTYPES = {"float16": "F16", "float32": "F32", "uint8": "U8"}

#: The tensor of integers: codes of label vectors. All others are floats.
LABEL_CODES = "labels.codes"

#: Length limit of a tensor's name, below that of a hash: so no name can hold another tensor's name and hash.
_MAX_NAME = 60


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata; equal content gives equal bytes.

    Values that are not strings are stored as JSON, and None is left out. The file carries a hash of
    its content, so damage shows wherever it is read.

    Raises:
        InputError: a tensor has a type that these files do not hold.
    """
    given = {key: value for key, value in metadata.items() if value is not None}
    text = {key: value if isinstance(value, str) else _to_json(value) for key, value in given.items()}
    data = serialize(tensors, text)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def serialize(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return the one file that holds these tensors and metadata, with their hash.

    Raises:
        InputError: a tensor has a type that these files do not hold.
    """
    arrays = {name: np.asarray(value, value.dtype.newbyteorder("<"), order="C") for name, value in tensors.items()}
    for name, value in arrays.items():
        if not _has_type(name, value):
            raise InputError(f"tensor {name!r} is {value.dtype.name}; save it as {_types(name)}.")
    header = _header(arrays, {**metadata, HASH: _content_hash(arrays, metadata)})
    return header + b"".join(arrays[name].tobytes() for name in _order(arrays))


def _types(name: str) -> str:
    """Return the types that a tensor of this name may have, in words."""
    return "uint8" if name == LABEL_CODES else "float16 or float32"


def _has_type(name: str, value: Array) -> bool:
    return value.dtype.name in DTYPES and (value.dtype.name == "uint8") is (name == LABEL_CODES)


def _header(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Return a file's bytes up to its tensors: the metadata sorted by key, the tensors in their order."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in _order(tensors):
        value, start = tensors[name], end
        end = start + value.nbytes
        entries[name] = {"dtype": DTYPES[value.dtype.name], "shape": list(value.shape), "data_offsets": [start, end]}
    text = _to_json(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _order(tensors: Mapping[str, Array]) -> list[str]:
    """Return the names in the order of the data: wider types first, so that each is aligned, then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def parse(data: bytes, source: str) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, the hash included.

    A file is read if it is byte for byte what `serialize` makes of its content. So nothing can be in it that
    the hash does not cover, such as an entry that is there twice and that other readers take the first of.

    Args:
        data: the whole file.
        source: the file's name in messages.

    Raises:
        CorruptFileError: not safetensors, a tensor of another type, a value that is not finite, no hash,
            a hash of other content, or the same content in other bytes.
    """
    if int.from_bytes(data[:8], "little") > MAX_HEADER and len(data) > MAX_HEADER:
        raise CorruptFileError(
            f"{source} has a header of more than {MAX_HEADER:,} bytes; replace it with the original."
        )
    try:
        tensors = _load(data)
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFileError(
            f"{source} is not a readable safetensors file; restore it from where it came."
        ) from error
    for name, value in tensors.items():
        if not _has_type(name, value):
            raise CorruptFileError(f"{source}: tensor {name!r} is {value.dtype.name}; save it as {_types(name)}.")
        if not np.isfinite(value).all():
            raise CorruptFileError(f"{source}: tensor {name!r} holds NaN or infinity; train or export it again.")
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if metadata.get(HASH) != _content_hash(tensors, metadata):
        raise CorruptFileError(f"{source} is damaged: it is not what was written; fetch it again.")
    if max(map(len, tensors), default=0) > _MAX_NAME or not data.startswith(_header(tensors, metadata)):
        raise CorruptFileError(f"{source} is not laid out as mpt-edge writes it; train, export or import it again.")
    return tensors, metadata


def _content_hash(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata as JSON, and of each tensor's name, type, shape and bytes, sorted by name.

    The hash itself and a signature of it are left out.
    """
    entries = {key: value for key, value in sorted(metadata.items()) if key not in (HASH, SIGNATURE)}
    digest = hashlib.sha256(_to_json(entries).encode())
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
