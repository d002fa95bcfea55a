"""Constraints: allowed tokens against Python's re and jsonschema, hostile schemas, and messages."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer

from mpt_edge.errors import InputError, MissingExtraError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.constraints import Follower, Grammars
from tests.support.small_tokenizers import byte_level, metaspace

EOS = (2,)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 3, "maximum": 42},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=[byte_level, metaspace])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer)


def follower(grammars: Grammars, **options: Any) -> Follower:
    constraint = grammars.constraint(GenerationOptions(max_new_tokens=300, **options))
    assert constraint is not None
    return constraint.follow(is_trimmed=False)


def draw(tokenizer: Tokenizer, follower: Follower, seed: int) -> str:
    """Return a text of random tokens among the allowed ones, those that end texts included."""
    rng, tokens = np.random.default_rng(seed), list[int]()
    for _ in range(400):
        allowed = np.flatnonzero(np.isfinite(follower.restrict(np.zeros(900, np.float32), EOS)))
        # Ends come soon, so that the texts stay short.
        token = EOS[0] if EOS[0] in allowed and rng.random() < 0.3 else int(rng.choice(allowed))
        if token in EOS:
            break
        tokens.append(token)
        follower.advance(token)
        if follower.is_over:
            break
    assert follower.is_complete
    return follower.trim(tokenizer.decode(tokens))


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{3}-[a-z]+",
        "(yes|no|maybe so)",
        r"^[A-Z][a-z ]{0,9}\.$",
        r" ?x+",
        "[^a]{2,4}",
        r"a\$",
        "(?i)abc",
        "süß|日本",
    ],
)
def test_texts_match_the_whole_expression(tokenizer: Tokenizer, grammars: Grammars, pattern: str) -> None:
    for seed in range(5):
        assert re.fullmatch(pattern, draw(tokenizer, follower(grammars, regex=pattern), seed))


@pytest.mark.parametrize(
    "schema",
    [SCHEMA, {"type": "integer", "multipleOf": 7}, {"enum": ["a", 1, None]}, {"anyOf": [{"type": "null"}, SCHEMA]}],
)
def test_texts_are_valid_under_the_schema(tokenizer: Tokenizer, grammars: Grammars, schema: dict[str, Any]) -> None:
    for seed in range(5):
        jsonschema.validate(json.loads(draw(tokenizer, follower(grammars, json_schema=schema), seed)), schema)


def test_texts_go_on_by_themselves(tokenizer: Tokenizer, grammars: Grammars) -> None:
    first = follower(grammars, regex="ab|cd")
    token = {text: tokenizer.token_to_id(text) for text in "abcd"}
    second = first.copy()
    first.advance(token["a"])
    second.advance(token["c"])
    scores = [np.isfinite(each.restrict(np.zeros(900, np.float32), EOS)) for each in (first, second)]
    assert [each[token["b"]] for each in scores] == [True, False]
    assert [each[token["d"]] for each in scores] == [False, True]
    assert not any(each[EOS[0]] for each in scores)
    with pytest.raises(InputError, match="no tokens that spell"):
        first.advance(token["d"])


def test_a_space_in_front_is_free_unless_the_expression_has_one(grammars: Grammars) -> None:
    assert follower(grammars, regex="a+").trim(" aa") == "aa"
    assert follower(grammars, regex=" ?a+").trim(" aa") == " aa"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"regex": "(a"}, "the regular expression cannot be used (unclosed group); change it."),
        ({"regex": r"(a)\1"}, "backreferences are not supported"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": ""}, "the empty text alone"),
        ({"regex": "a{3000}"}, "needs at least"),
        ({"json_schema": {"not": {}}}, 'the JSON schema cannot be used (Unimplemented keys: ["not"]); change it.'),
        ({"json_schema": {"type": "strin"}}, "Invalid type: strin"),
        ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable schema"),
        ({"json_schema": {"$ref": "file:///etc/passwd"}}, "Default retriever does not fetch resources"),
        ({"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}, "Unimplemented keys"),
    ],
)
def test_constraints_that_cannot_be_used(grammars: Grammars, options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        grammars.constraint(GenerationOptions(max_new_tokens=300, **options))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_without_a_brace() -> None:
    """As T5's, in which no JSON object can be spelled."""
    tokenizer = metaspace()
    settings = json.loads(tokenizer.to_str())
    settings["model"]["vocab"] = {
        token: i for i, token in enumerate(t for t in settings["model"]["vocab"] if "{" not in t and t != "<0x7B>")
    }
    settings["added_tokens"] = [
        each for each in settings["added_tokens"] if each["content"] in settings["model"]["vocab"]
    ]
    for each in settings["added_tokens"]:
        each["id"] = settings["model"]["vocab"][each["content"]]
    grammars = Grammars(Tokenizer.from_str(json.dumps(settings)))
    with pytest.raises(InputError, match="the model has no tokens that spell a text that matches"):
        grammars.constraint(GenerationOptions(json_schema={"type": "object"}))
    assert grammars.constraint(GenerationOptions(json_schema={"type": "integer"})) is not None


@pytest.mark.parametrize(
    "options",
    [
        {"json_schema": {"type": "integer", "multipleOf": 99_991}},
        {"json_schema": {"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]}},
        {"json_schema": {"type": "number", "multipleOf": 1e-9}},
        {"regex": "(((a{1000}){1000}){1000})"},
        {"regex": r"(\p{L}{0,500}\w{0,500}){0,50}x"},
        {"regex": "(.*a){30}.{40}"},
        {"json_schema": {"properties": {f"p{i}": {"type": "string"} for i in range(1500)}}},
        {
            "json_schema": {
                "allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {}}} for j in range(4)]} for i in range(12)]
            }
        },
        {"json_schema": {"type": "array", "minItems": 10**9, "items": {"type": "array", "minItems": 10**9}}},
        {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
    ],
    ids=lambda options: str(options)[:60],
)
def test_hostile_constraints_cost_little(grammars: Grammars, options: dict[str, Any]) -> None:
    """They are refused, or followed for a while; seconds of a processor, so that other processes do not count."""
    began = time.process_time()
    with suppress(InputError):
        text = follower(grammars, **options)
        rng = np.random.default_rng(0)
        for _ in range(10):
            allowed = np.flatnonzero(np.isfinite(text.restrict(np.zeros(900, np.float32), ())))
            text.advance(int(rng.choice(allowed)))
    assert time.process_time() - began < 3


def test_without_a_constraint_nothing_is_imported(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    grammars = Grammars(tokenizer)
    assert grammars.constraint(GenerationOptions()) is None
    with pytest.raises(MissingExtraError, match=r"pip install 'mpt-edge\[constrain\]'"):
        grammars.constraint(GenerationOptions(regex="a"))
