"""JSON that has one meaning: no key comes twice, and equal content has one spelling to hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON in UTF-8, an object has a key twice, of which parsers take either, or a text has half
            a character, which can be neither shown nor hashed.
        RecursionError: it is nested too deeply.
    """
    decoded = text.decode() if isinstance(text, bytes) else text
    value = json.loads(decoded, object_pairs_hook=_unique)
    if "\\u" in decoded:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and without spaces, in UTF-8.

    Raises:
        ValueError: a text in it cannot be encoded.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key comes twice")
    return result
