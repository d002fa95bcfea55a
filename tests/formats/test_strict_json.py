"""JSON of one meaning."""

from __future__ import annotations

import pytest

from mpt_edge.formats.strict_json import MAX_DEPTH, canonical_json, parse_json


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": [{"a": 1, "\\u0061": 2}]}', '{"a": 1', "\ud800", b"\xff"])
def test_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_one_spelling() -> None:
    value = parse_json('{"b": [1, 2.50, null], "a": {"d": "\\u00fc", "c": true}}')
    assert value == {"b": [1, 2.5, None], "a": {"d": "ü", "c": True}}
    assert canonical_json(value) == '{"a":{"c":true,"d":"ü"},"b":[1,2.5,null]}'.encode()
    with pytest.raises(ValueError, match="surrogates"):
        canonical_json(["\ud800"])


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting(opening: str, closing: str) -> None:
    """What the parser still reads may be too deep for whoever copies or writes it."""
    levels = MAX_DEPTH // len(closing)
    assert parse_json(opening * levels + "1" + closing * levels)
    for count in (levels + 1, 900, 100_000):
        with pytest.raises((ValueError, RecursionError), match=r"nested|recursion"):
            parse_json(opening * count + "1" + closing * count)
