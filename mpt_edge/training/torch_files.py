"""Files of ``torch.save``, checked before PyTorch reads them.

``weights_only`` keeps code out. It does not keep a small file from asking for much memory: by a
compressed archive, by tensors that repeat one value, or by calls such as ``bytearray(10**10)``. So the
archive is read here first, and only what tensors and plain values need is passed on.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mpt_edge._files import read_small

#: Parts of an archive that tensors need; others would make it a program of TorchScript.
_PARTS = re.compile(r"[^/]+/(data\.pkl|version|byteorder|data/\d+|\.format_version|\.storage_alignment|\.data/\w+)")

_PICKLE = "/data.pkl"

#: Operations by which dicts, lists, texts, numbers and tensors are written.
_OPERATIONS = re.compile(
    "PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|EMPTY_(DICT|LIST|TUPLE)|TUPLE[123]?|"
    "APPENDS?|SETITEMS?|(LONG_)?BIN(PUT|GET)|GLOBAL|REDUCE|BUILD|BINPERSID"
)

#: Names that tensors are made with.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|"
    r"torch (Float|Half|BFloat16|Double|Long|Int|Short|Char|Byte|Bool)Storage"
)

#: Size limit of the pickle, in bytes; it names each tensor and holds none of their values.
_MAX_PICKLE = 4 << 20

#: Bytes that tensors may have in all, as a multiple of the file's: two may share their values.
_SHARING, _SLACK = 4, 1 << 20


def load_tensors(path: Path, max_bytes: int, device: torch.device | str = "cpu") -> Any:
    """Return the value that a file of ``torch.save`` holds.

    Args:
        path: the file.
        max_bytes: its size limit.
        device: device of the tensors.

    Raises:
        CorruptFileError: the file cannot be read, or is too large.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    data = read_small(path, max_bytes)
    archive = _repacked(data)
    try:
        value = torch.load(archive, weights_only=True, map_location=device)
    except Exception as error:  # each malformed part raises an error of its own
        raise ValueError("its pickle is damaged") from error
    total = sum(map(_bytes, tensors_in(value)))
    if total > _SHARING * len(data) + _SLACK:
        raise ValueError("its tensors are larger than the file")
    return value


def check_archive(path: Path) -> None:
    """Check a model's weights in the format of ``torch.save``, without reading them.

    Weights in the format before PyTorch 1.6, which is no archive, are not checked.

    Raises:
        ValueError: they are compressed, or hold more than tensors and plain values.
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    with _opened(path) as archive:
        _check_parts(archive, path.stat().st_size)
        _check_pickles(archive)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors within dicts, lists and tuples; those in several places once."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item


def _bytes(value: torch.Tensor) -> int:
    """Return the size of a tensor with every value written out. Raises ValueError for more than its file holds."""
    size = value.numel() * value.element_size()
    if size > value.untyped_storage().nbytes():
        raise ValueError("a tensor repeats its values")
    return size


def _repacked(data: bytes) -> io.BytesIO:
    """Return a new archive of the checked parts, so that PyTorch reads what was checked. Raises ValueError."""
    result = io.BytesIO()
    with _opened(io.BytesIO(data)) as archive:
        _check_parts(archive, len(data))
        _check_pickles(archive)
        try:
            with zipfile.ZipFile(result, "w") as copy:
                for name in archive.namelist():
                    copy.writestr(name, archive.read(name))
        except Exception as error:  # damaged archives raise errors of many types
            raise ValueError("its archive is damaged") from error
    result.seek(0)
    return result


def _opened(file: Any) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # damaged archives raise errors of many types
        raise ValueError("it is no archive of PyTorch 1.6 or later") from error


def _check_parts(archive: zipfile.ZipFile, size: int) -> None:
    """Check names and sizes before anything is read. Raises ValueError."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 for part in parts):
        raise ValueError("its archive is compressed")
    if len({part.filename for part in parts}) < len(parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("its archive is damaged")
    other = next((part.filename for part in parts if _PARTS.fullmatch(part.filename) is None), None)
    if other is not None or sum(part.filename.endswith(_PICKLE) for part in parts) != 1:
        raise ValueError("its archive holds other parts than tensors")


def _check_pickles(archive: zipfile.ZipFile) -> None:
    """Check the operations of the pickle, which are listed without being run. Raises ValueError."""
    part = next(part for part in archive.infolist() if part.filename.endswith(_PICKLE))
    if part.file_size > _MAX_PICKLE:
        raise ValueError("its pickle is too large")
    try:
        other = next(filter(None, map(_other_than_tensors, pickletools.genops(archive.read(part)))), None)
    except Exception as error:  # damaged pickles raise errors of many types
        raise ValueError("its pickle is damaged") from error
    if other is not None:
        raise ValueError(f"it holds more than tensors ({other})")


def _other_than_tensors(operation: tuple[pickletools.OpcodeInfo, Any, int | None]) -> str | None:
    """Return the name of an operation that tensors and plain values do not need; None for others."""
    code, value, _ = operation
    if code.name == "GLOBAL":
        return None if _GLOBALS.fullmatch(str(value)) else str(value)
    return None if _OPERATIONS.fullmatch(code.name) else code.name
