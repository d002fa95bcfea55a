"""Recipes: what a good file gives, and one sentence for each bad entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.training.data.recipes import load_recipe

GOOD = 'name = "toy"\ntrain = "train.jsonl"\nvalidation = "validation.jsonl"\n'

BAD_ENTRIES = {
    "unknown entry": (GOOD + 'lables = "x"\n', ["unknown entry", "'lables'", "labels"]),
    "name missing": ('train = "a.jsonl"\nvalidation = "b.jsonl"\n', ["'name'", "missing"]),
    "train missing": ('name = "toy"\nvalidation = "b.jsonl"\n', ["'train'", "missing"]),
    "validation missing": ('name = "toy"\ntrain = "a.jsonl"\n', ["'validation'", "missing"]),
    "validation empty": ('name = "toy"\ntrain = "a.jsonl"\nvalidation = ""\n', ["'validation'", "missing"]),
    "name leads elsewhere": (GOOD.replace('"toy"', '"../toy"'), ["name", "'../toy'"]),
    "name with a space": (GOOD.replace('"toy"', '"my toy"'), ["name", "'my toy'"]),
    "name too long": (GOOD.replace("toy", "t" * 65), ["name"]),
    "name is a number": (GOOD.replace('"toy"', "3"), ["'name'", "str", "3"]),
    "train is a list": (GOOD.replace('"train.jsonl"', '["train.jsonl"]'), ["'train'", "str"]),
    "kind unknown": (GOOD + 'kind = "regression"\n', ["kind", "'regression'", "pair, generation"]),
    "max_length is text": (GOOD + 'max_length = "64"\n', ["'max_length'", "int", "'64'"]),
    "max_length is a float": (GOOD + "max_length = 64.0\n", ["'max_length'", "int"]),
    "max_length is a bool": (GOOD + "max_length = true\n", ["'max_length'", "int", "True"]),
    "max_length too small": (GOOD + "max_length = 2\n", ["max_length", "3"]),
    "label_examples negative": (GOOD + "label_examples = -1\n", ["label_examples", "0"]),
    "version zero": (GOOD + "version = 0\n", ["version 1"]),
    "metric unknown": (GOOD + 'metric = "f2"\n', ["metric", "'f2'", "matthews"]),
    "template without a text": (GOOD + 'template = "It was {word}."\n', ["template", "{text}"]),
    "template of a pair without the second": (
        GOOD + 'kind = "pair"\ntemplate = "{text}?"\n',
        ["template", "{text} or {text_pair}"],
    ),
    "labels is a list": (GOOD + 'labels = ["a", "b"]\n', ["'labels'", "dict"]),
    "one label": (GOOD + '[labels]\ngood = "good"\n', ["one label"]),
    "label without a text": (GOOD + '[labels]\ngood = ""\nbad = "bad"\n', ["label", "'good'"]),
    "label with a blank among its texts": (GOOD + '[labels]\ngood = ["good", " "]\nbad = "bad"\n', ["'good'"]),
    "label with no texts": (GOOD + '[labels]\ngood = "good"\nbad = []\n', ["label", "'bad'"]),
    "label is a number": (GOOD + '[labels]\ngood = 1\nbad = "bad"\n', ["label", "'good'"]),
    "label texts hold a number": (GOOD + '[labels]\ngood = ["good", 1]\nbad = "bad"\n', ["'good'"]),
    "cut unknown": (GOOD + 'cut = "middle"\n', ["cut 'middle' is unknown", "right or left"]),
    "stop is a text": (GOOD + 'kind = "generation"\nstop = "."\n', ["'stop'", "list"]),
    "stop holds a number": (GOOD + 'kind = "generation"\nstop = [".", 1]\n', ["'stop'", "list of texts"]),
    "stop is empty": (GOOD + 'kind = "generation"\nstop = [""]\n', ["'stop'", "not empty"]),
    "stop where nothing is written": (GOOD + 'stop = ["."]\n', ["stop", "writes none"]),
    "metric of labels for text": (GOOD + 'kind = "generation"\nmetric = "accuracy"\n', ["'accuracy'", "bleu"]),
    "no TOML": ("name = toy\n", ["TOML"]),
    "an entry given twice": (GOOD + 'name = "other"\n', ["TOML"]),
}


@pytest.mark.parametrize(("text", "expected"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_bad_entry_is_one_sentence_naming_file_and_entry(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes(b"name = '\xff\xfe'\n")
    with pytest.raises(InputError, match=r"toy\.toml is not TOML"):
        load_recipe(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read the recipe"):
        load_recipe(tmp_path)


def test_smallest_recipe_and_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.train, recipe.validation) == ("toy", "train.jsonl", "validation.jsonl")
    assert (recipe.test, recipe.kind, recipe.text, recipe.label, recipe.max_length) == (
        "",
        "classification",
        "text",
        "label",
        64,
    )
    assert dict(recipe.labels) == {}


def test_every_entry_arrives(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    entries = {
        "test": "test.csv",
        "kind": "pair",
        "text": "premise",
        "text_pair": "hypothesis",
        "label": "gold",
        "template": "{text} so {text_pair}",
        "license": "CC0-1.0",
        "source": "made up",
    }
    lines = "".join(f'{key} = "{value}"\n' for key, value in entries.items())
    path.write_text(
        GOOD + lines + 'max_length = 3\nlabel_examples = 2\nversion = 4\n[labels]\nno = "no"\nyes = ["yes", "sure"]\n'
    )
    recipe = load_recipe(path)
    for key, value in entries.items():
        assert getattr(recipe, key) == value
    assert (recipe.max_length, recipe.label_examples, recipe.version) == (3, 2, 4)
    assert recipe.labels == {"no": ("no",), "yes": ("yes", "sure")}
    assert list(recipe.labels) == ["no", "yes"]


def test_entries_of_a_task_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD + 'kind = "generation"\n')
    recipe = load_recipe(path)
    assert (recipe.metric, recipe.cut, recipe.stop, recipe.fitting()) == ("exact_match", "right", (), {})
    path.write_text(GOOD + 'kind = "generation"\nmetric = "bleu"\ncut = "left"\nstop = ["\\n", "Q:"]\n')
    recipe = load_recipe(path)
    assert (recipe.metric, recipe.cut, recipe.stop) == ("bleu", "left", ("\n", "Q:"))
    assert recipe.fitting() == {"cut": "left", "stop": ["\n", "Q:"]}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "models" / "recipes").rglob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_recipes_load_under_their_own_name(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.license
    assert recipe.source
