"""Recipes: the values of a good file, and one sentence for each bad entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.head_types import head_type_names
from mpt_edge.formats.taskfile import Inputs, Side
from mpt_edge.training.data.recipes import MAX_RECIPE, Recipe, load_recipe
from tests.support.checkpoints import assert_one_sentence

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
    "inputs unknown": (GOOD + 'inputs = "triple"\n', ["inputs", "'triple'", "text, pair"]),
    "head type unknown": (GOOD + 'head_type = "regression"\n', ["head_type", "'regression'", "similarity", "mask"]),
    "max_length is text": (GOOD + 'max_length = "64"\n', ["'max_length'", "int", "'64'"]),
    "max_length is a float": (GOOD + "max_length = 64.0\n", ["'max_length'", "int"]),
    "max_length is a bool": (GOOD + "max_length = true\n", ["'max_length'", "int", "True"]),
    "max_length too small": (GOOD + "max_length = 2\n", ["max_length", "3"]),
    "label_examples negative": (GOOD + "label_examples = -1\n", ["label_examples", "0"]),
    "version zero": (GOOD + "version = 0\n", ["version", "at least 1"]),
    "max_target_length zero": (GOOD + "max_target_length = 0\n", ["max_target_length", "at least 1"]),
    "template without a text": (GOOD + 'template = "It was {word}."\n', ["template", "{text}"]),
    "template of a pair without the second": (
        GOOD + 'inputs = "pair"\ntemplate = "{text}?"\n',
        ["template", "{text} or {text_pair}"],
    ),
    "system text without a chat": (GOOD + 'template = "{text}"\nsystem = "x"\n', ["'system'", "template = 'chat'"]),
    "message without a chat": (GOOD + 'message = "{text}"\n', ["'message'", "template = 'chat'"]),
    "message without a text": (GOOD + 'template = "chat"\nmessage = "x"\n', ["the message 'x' lacks {text}"]),
    "pair in a chat without a message": (GOOD + 'template = "chat"\ninputs = "pair"\n', ["add 'message' with {text}"]),
    "labels is a list": (GOOD + 'labels = ["a", "b"]\n', ["'labels'", "type table"]),
    "one label": (GOOD + '[labels]\ngood = "good"\n', ["one label"]),
    "label without a text": (GOOD + '[labels]\ngood = ""\nbad = "bad"\n', ["label", "'good'"]),
    "label with a blank among its texts": (GOOD + '[labels]\ngood = ["good", " "]\nbad = "bad"\n', ["'good'"]),
    "label with no texts": (GOOD + '[labels]\ngood = "good"\nbad = []\n', ["label", "'bad'"]),
    "label is a number": (GOOD + '[labels]\ngood = 1\nbad = "bad"\n', ["label", "'good'"]),
    "label texts hold a number": (GOOD + '[labels]\ngood = ["good", 1]\nbad = "bad"\n', ["'good'"]),
    "truncation side unknown": (
        GOOD + 'truncation_side = "middle"\n',
        ["truncation_side 'middle' is unknown", "left, right", "or leave it out"],
    ),
    "where holds a number": (GOOD + "[where]\nof = 1\n", ["[where]", "quotes"]),
    "stop is a text": (GOOD + 'head_type = "generation"\nstop = "."\n', ["'stop'", "type array"]),
    "stop holds a number": (GOOD + 'head_type = "generation"\nstop = [".", 1]\n', ["'stop'", "list of texts"]),
    "stop is empty": (GOOD + 'head_type = "generation"\nstop = [""]\n', ["'stop'", "not empty"]),
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
    with pytest.raises(InputError, match=r"toy\.toml is not UTF-8"):
        load_recipe(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"cannot read .*, which is a folder; pass a regular file"):
        load_recipe(tmp_path)


def test_a_recipe_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD + "#" * MAX_RECIPE)
    with pytest.raises(InputError, match="has more than the 1,048,576 bytes that a recipe may have; shorten it"):
        load_recipe(path)


def test_smallest_recipe_and_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.train, recipe.validation) == ("toy", "train.jsonl", "validation.jsonl")
    assert (recipe.inputs, recipe.text, recipe.label, recipe.max_length) == (Inputs.TEXT, "text", "label", 64)
    absent = ("test", "head_type", "hub", "config", "template", "license", "source")
    assert [getattr(recipe, name) for name in absent] == [None] * len(absent)
    assert (dict(recipe.labels), recipe.metric, recipe.is_generation) == ({}, "accuracy", False)


def test_an_empty_text_in_an_optional_entry_is_none(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD + 'test = ""\ntemplate = ""\nlicense = ""\n')
    recipe = load_recipe(path)
    assert (recipe.test, recipe.template, recipe.license) == (None, None, None)


def test_every_entry_arrives(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    entries = {
        "test": "test.csv",
        "inputs": "pair",
        "head_type": "similarity",
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


def test_entries_of_a_task_that_generates(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD + 'head_type = "generation"\n')
    recipe = load_recipe(path)
    assert (recipe.metric, recipe.truncation_side, recipe.stop) == ("exact_match", Side.RIGHT, ())
    path.write_text(
        GOOD + 'head_type = "generation"\nmetric = "bleu"\ntruncation_side = "left"\nstop = ["\\n", "Q:"]\n'
    )
    recipe = load_recipe(path)
    assert (recipe.metric, recipe.truncation_side, recipe.stop) == ("bleu", Side.LEFT, ("\n", "Q:"))


@pytest.mark.parametrize("name", [None, *head_type_names()])
def test_only_tasks_without_labels_generate(name: str | None) -> None:
    """A choice is the likeliest of its label texts, so it has labels."""
    assert Recipe("toy", "train", "validation", head_type=name).is_generation == (name == "generation")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "models" / "recipes").rglob("*.toml")), ids=lambda p: p.stem
)
def test_shipped_recipes_load_under_their_own_name(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.license
    assert recipe.source


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(path).name == "toy"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])  # as PowerShell and old editors save
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes((GOOD + 'source = "M\u00fcller"\n').encode(encoding))
    with pytest.raises(InputError, match="is not UTF-8; save it with that encoding"):
        load_recipe(path)


def test_recipe_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.toml").write_text(GOOD, "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_recipe(Path("~/toy.toml")).name == "toy"


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("max_length = " + "9" * 5000, "endless number or nesting"),
        ("x = " + "[" * 5000, "endless number or nesting"),
        ("max_length = " + "9" * 4000, "max_length must be at most 2147483647"),
        ("version = 2147483648", "version must be at most 2147483647"),
        ('hub = "/etc"', "is no id of a data set"),
        ('hub = "../.."', "is no id of a data set"),
        ('hub = "owner/../x"', "is no id of a data set"),
        ('hub = "."', "is no id of a data set"),
        ("# " + "x" * (1 << 20), "more than the 1,048,576 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_hostile_entries(tmp_path: Path, lines: str, part: str) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(GOOD + lines + "\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert_one_sentence(caught.value, str(path), part)
