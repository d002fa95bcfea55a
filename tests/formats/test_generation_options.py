"""Generation options: impossible values, and entries of files and requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import NAMES, GenerationKwargs, GenerationOptions


def test_requests_take_all_options() -> None:
    assert set(GenerationKwargs.__annotations__) == NAMES


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"max_new_tokens": 0}, "limit of 0 new tokens"),
        ({"min_new_tokens": 70}, "min_new_tokens"),
        ({"temperature": -1.0}, "temperature of -1.0"),
        ({"temperature": float("nan")}, "temperature of nan"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition penalty"),
        ({"num_beams": 0}, "0 beams"),
        ({"num_beams": 257}, "257 beams are not possible; pass 1 to 256"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search samples nothing"),
        ({"seed": -1}, "seed"),
        ({"stop": ("",)}, "stop text is empty"),
        ({"stop": 5}, "stop must be a text or a list of texts, not 5"),
        ({"stop": (".", None)}, "stop must be a text"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number, not 'many'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, not 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, not True"),
        ({"seed": None}, "seed must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"length_penalty": float("nan")}, "length penalty must lie between -10 and 10"),
        ({"length_penalty": 2000.0}, "length penalty must lie between -10 and 10"),
        ({"temperature": 10**400}, "a temperature of 10+ is not possible"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or"),
    ],
)
def test_options_that_cannot_be(values: dict[str, object], part: str) -> None:
    with pytest.raises(InputError, match=part):
        GenerationOptions(**values)  # type: ignore[arg-type]


def test_options_from_entries() -> None:
    options = GenerationOptions.parse({"max_new_tokens": np.int64(4), "temperature": 1, "stop": "."})
    assert (options.max_new_tokens, options.temperature, options.stop) == (4, 1, (".",))
    assert GenerationOptions.parse({"stop": [".", "!"]}).stop == (".", "!")
    with pytest.raises(InputError, match="no option 'beams'"):
        GenerationOptions.parse({"beams": 3})


def test_a_schema_is_kept_as_a_text() -> None:
    """With its properties in their order, whether it comes as a dict or as a text."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    for given in (schema, json.dumps(schema, indent=2)):
        options = GenerationOptions.parse({"json_schema": given})
        assert options.is_constrained
        assert options.json_schema is not None
        assert list(json.loads(options.json_schema)["properties"]) == ["b", "a"]
        assert hash(options) == hash(GenerationOptions(json_schema=options.json_schema))
    assert not GenerationOptions().is_constrained


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"json_schema": "{"}, "json_schema is no JSON"),
        ({"json_schema": {"a": {1}}}, "json_schema is no JSON"),
        ({"json_schema": "[1]"}, "no JSON object"),
        ({"json_schema": True}, "no JSON object"),
        ({"json_schema": '{"a": 1, "a": 2}'}, "a key comes twice"),
        ({"json_schema": '{"items":' * 40 + "{}" + "}" * 40}, "nested too deeply"),
        ({"json_schema": '{"items":' * 5000 + "{}" + "}" * 5000}, "nested too deeply|recursion"),
        ({"json_schema": '{"const": "\\ud800"}'}, "json_schema is no JSON"),
        ({"json_schema": {"const": "x" * 70_000}}, "more than 65,536 characters"),
        ({"regex": "x" * 70_000}, "more than 65,536 characters"),
        ({"regex": 1}, "regex must be a text, not int"),
        ({"regex": "a", "json_schema": {}}, "both json_schema and regex"),
        ({"regex": "a", "stop": "b"}, "leave out stop"),
    ],
)
def test_constraints_that_cannot_be_used(entries: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        GenerationOptions.parse(entries)
