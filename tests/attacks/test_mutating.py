"""Mutations stay within JSON's grammar where they should, and reach all that they promise."""

from __future__ import annotations

import json
from random import Random

import pytest

from attacks.mutating import Mutator, Pairs, Raw, read_json, write_json

TREE = {"a": [1, 2.5, None, True, "é\x1f"], "b": {"c": '{"d": [1, 2]}'}}


def test_a_tree_is_written_as_it_was_read() -> None:
    for ascii_only in (False, True):
        assert json.loads(write_json(read_json(json.dumps(TREE)), ascii_only=ascii_only)) == TREE


def test_texts_that_json_does_not_write() -> None:
    tree = Pairs([("a", Raw("9" * 5000)), ("a", "\ud800")])
    assert write_json(tree) == b'{"a":' + b"9" * 5000 + rb',"a":"\ud800"}'


def mutate(number: int) -> bytes:
    tree = read_json(json.dumps(TREE))
    return write_json(mutator(number, [tree]).tree(tree))


def mutator(number: int, others: list[object]) -> Mutator:
    return Mutator(Random(number), others)  # noqa: S311


def test_mutants_are_those_of_their_random_generator() -> None:
    mutants = [mutate(number) for number in range(400)]
    assert mutants == [mutate(number) for number in range(400)]
    assert len(set(mutants)) > 200


def test_parts_that_mutants_reach() -> None:
    mutants = [mutate(number) for number in range(400)]
    assert any(text.count(b'"a":') == 2 for text in mutants)
    assert any(b"9" * 4300 in text for text in mutants)
    assert any(b"[" * 500 in text for text in mutants)
    assert any(rb"\ud800" in text for text in mutants)
    inside = [text for text in mutants if text.startswith(write_json(TREE)[:40]) and text != write_json(TREE)]
    assert any(isinstance(json.loads(json.loads(text)["b"]["c"]), dict) for text in inside if text.endswith(b'"}}'))


@pytest.mark.parametrize("data", [b"", b"12345678abcdefgh" * 4])
def test_bytes(data: bytes) -> None:
    mutants = {mutator(i, []).bytes(data, b"other bytes") for i in range(300)}
    assert len(mutants) > 50
    if data:
        lengths = {len(mutant) - len(data) for mutant in mutants}
        assert min(lengths) < 0 < max(lengths)
        assert any(len(m) == len(data) and sum(x != y for x, y in zip(m, data, strict=True)) == 1 for m in mutants)
