"""JSON that has one meaning: no key comes twice, and equal content has one spelling to hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

#: Maximum levels of objects and lists in each other; manifests and task files have five. The parser reads hundreds, and
#: these fail where they are copied or written.
MAX_DEPTH = 32


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON in UTF-8, it is nested too deeply, an object has a key twice, of which parsers take
            either, or a text has half a character, which can be neither shown nor hashed.
        RecursionError: it is nested too deeply for the parser.
    """
    decoded = text.decode() if isinstance(text, bytes) else text
    value = json.loads(decoded, object_pairs_hook=_unique)
    _check_depth(value)
    if "\\u" in decoded:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and without spaces, in UTF-8.

    Raises:
        ValueError: a text in it cannot be encoded.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _check_depth(value: Any) -> None:
    """Refuse a value of more than `MAX_DEPTH` levels. Raises ValueError."""
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = [part for each in level for part in _containers(each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [each for each in values if isinstance(each, dict | list)]


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice")
    return result
