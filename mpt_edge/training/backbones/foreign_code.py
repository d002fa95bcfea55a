"""Refuse models that bring code: no code from a model's folder is run, whoever would ask for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpt_edge._files import read_small
from mpt_edge.errors import UnsupportedModelError

#: Entry by which configurations of transformers name classes in files of the folder.
_AUTO_MAP = "auto_map"

#: Modules of sentence-transformers, and the package whose classes they may be.
_MODULES, _PACKAGE = "modules.json", "sentence_transformers."

#: Configuration of a PEFT adapter, for which transformers loads another model, from wherever it says.
_ADAPTER = "adapter_config.json"

#: Files whose keys are words of a vocabulary or names of weights, and the size limit of all others, in bytes.
_VOCABULARIES, _MAX_BYTES = ("tokenizer.json", "vocab.json"), 16 << 20


def refuse_code(folder: Path) -> None:
    """Refuse a model whose configuration names code in its own folder.

    A configuration may lead to a further file, so all are read. Files that are not JSON are left to
    their readers.

    Raises:
        UnsupportedModelError: it names such code, or another model to load.
        CorruptFileError: a file is too large for a configuration.
    """
    if (folder / _ADAPTER).is_file():
        raise UnsupportedModelError(
            f"{folder} holds an adapter, which names another model to load; pass the folder of its base model, and "
            "import the adapter with `mpt-edge import peft`."
        )
    for path in sorted(folder.glob("*.json")):
        if path.name in _VOCABULARIES or path.name.endswith(".index.json") or not path.is_file():
            continue
        value = _read(path)
        if any(entries.get(_AUTO_MAP) for entries in _objects(value)):
            raise _code(path, f"the entry {_AUTO_MAP!r}")
        if path.name == _MODULES:
            _check_modules(path, value)


def _read(path: Path) -> Any:
    """Return the value of a JSON file; None for a file that is not JSON."""
    data = read_small(path, _MAX_BYTES)
    try:
        return json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None


def _check_modules(path: Path, value: Any) -> None:
    """Check that all modules are classes of sentence-transformers. Raises UnsupportedModelError."""
    for entries in _objects(value):
        kind = entries.get("type")
        if isinstance(kind, str) and not kind.startswith(_PACKAGE):
            raise _code(path, f"the module {kind!r}")


def _code(path: Path, place: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} names code of the model's own ({place}), which is never run; use a model without, or remove the entry "
        "if transformers has the model's classes itself."
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects within a JSON value."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
