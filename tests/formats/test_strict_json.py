"""JSON of one meaning."""

from __future__ import annotations

import pytest

from mpt_edge.formats.strict_json import canonical_json, parse_json


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
