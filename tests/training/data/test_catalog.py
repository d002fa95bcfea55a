"""The shipped recipes; those of hub data sets read a local mirror in the hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from mpt_edge.inference.text import render
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.recipes import load_recipe

RECIPES = Path(__file__).parents[3] / "models" / "recipes"

#: Columns and label names of nyu-mll/glue, as its card gives them.
GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "sst2": (["sentence"], ["negative", "positive"]),
}


STRING = datasets.Value("string")
BOOL = datasets.ClassLabel(names=["False", "True"])
NLI = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
CB = datasets.ClassLabel(names=["entailment", "contradiction", "neutral"])
CHOICES = {"text": datasets.List(STRING), "label": datasets.List(STRING)}


def _pair(first: str, second: str, label: Any, words: str, answer: str) -> tuple[Any, ...]:
    return {first: STRING, second: STRING, "label": label}, {first: "one", second: "two"}, words, answer


def _choice(question: str) -> tuple[Any, ...]:
    features = {question: STRING, "choices": CHOICES, "answerKey": STRING}
    row = {question: "why?", "choices": {"text": ["a bird", "a cat"], "label": ["A", "B"]}}
    return features, row, "question: why? choices: a bird, a cat", "A"


def _answers(subset: str) -> tuple[Any, ...]:
    features = {"subset": STRING, "question": STRING, "context": STRING, "answers": datasets.List(STRING)}
    row = {"subset": subset, "question": "who?", "context": "it was me.", "answers": ["me", "I"]}
    return features, row, "question: who? context: it was me.", ("me", "I")


#: For each recipe of paper/: the hub's columns, a row, its text, and its label or answers.
PAPER: dict[str, tuple[Any, ...]] = {
    "mnli": _pair("premise", "hypothesis", NLI, "premise: one hypothesis: two", "entailment"),
    "anli": _pair("premise", "hypothesis", NLI, "premise: one hypothesis: two", "entailment"),
    "cb": _pair("premise", "hypothesis", CB, "premise: one hypothesis: two", "entailment"),
    "qnli": _pair(
        "question", "sentence", datasets.ClassLabel(names=GLUE["qnli"][1]), "question: one sentence: two", "entailment"
    ),
    "qqp": _pair(
        "question1",
        "question2",
        datasets.ClassLabel(names=GLUE["qqp"][1]),
        "question1: one question2: two",
        "not_duplicate",
    ),
    "mrpc": _pair(
        "sentence1",
        "sentence2",
        datasets.ClassLabel(names=GLUE["mrpc"][1]),
        "sentence1: one sentence2: two",
        "not_equivalent",
    ),
    "rte": _pair(
        "sentence1",
        "sentence2",
        datasets.ClassLabel(names=GLUE["rte"][1]),
        "sentence1: one sentence2: two",
        "entailment",
    ),
    "paws": _pair(
        "sentence1", "sentence2", datasets.ClassLabel(names=["0", "1"]), "sentence1: one sentence2: two", "0"
    ),
    "scitail": _pair("premise", "hypothesis", STRING, "sentence1: one sentence2: two", "entails"),
    "boolq": _pair("question", "passage", BOOL, "question: one passage: two", "False"),
    "sst2": (
        {"sentence": STRING, "label": datasets.ClassLabel(names=GLUE["sst2"][1])},
        {"sentence": "fun"},
        "sentence: fun",
        "negative",
    ),
    "cola": (
        {"sentence": STRING, "label": datasets.ClassLabel(names=GLUE["cola"][1])},
        {"sentence": "so is."},
        "sentence: so is.",
        "unacceptable",
    ),
    "yelp": ({"text": STRING, "label": datasets.ClassLabel(names=["1", "2"])}, {"text": "dry"}, "sentence: dry", "1"),
    "ag_news": (
        {"text": STRING, "label": datasets.ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])},
        {"text": "rain"},
        "article: rain",
        "World",
    ),
    "stsb": (
        {"sentence1": STRING, "sentence2": STRING, "label": datasets.Value("float32")},
        {"sentence1": "one", "sentence2": "two", "label": 3.8},
        "sentence1: one sentence2: two",
        ("3.8",),
    ),
    "multirc": (
        {"paragraph": STRING, "question": STRING, "answer": STRING, "label": BOOL},
        {"paragraph": "p", "question": "q", "answer": "a"},
        "question: q answer: a paragraph: p",
        "False",
    ),
    "wic": (
        {"word": STRING, "sentence1": STRING, "sentence2": STRING, "label": BOOL},
        {"word": "w", "sentence1": "a", "sentence2": "b"},
        "sentence1: a sentence2: b word: w",
        "False",
    ),
    "wsc": (
        {"text": STRING, "span1_text": STRING, "span2_text": STRING, "label": BOOL},
        {"text": "t", "span1_text": "Ann", "span2_text": "she"},
        "text: t reference: Ann pronoun: she",
        "False",
    ),
    "record": (
        {"passage": STRING, "query": STRING, "entities": datasets.List(STRING), "answers": datasets.List(STRING)},
        {"passage": "p", "query": "q", "entities": ["A", "B"], "answers": ["B"]},
        "record query: q entities: A, B passage: p",
        ("B",),
    ),
    "squad": (
        {
            "question": STRING,
            "context": STRING,
            "answers": {"text": datasets.List(STRING), "answer_start": datasets.List(datasets.Value("int32"))},
        },
        {"question": "who?", "context": "me.", "answers": {"text": ["me"], "answer_start": [0]}},
        "question: who? context: me.",
        ("me",),
    ),
    "natural_questions": _answers("NaturalQuestionsShort"),
    "hotpotqa": _answers("HotpotQA"),
    "searchqa": _answers("SearchQA"),
    "newsqa": _answers("NewsQA"),
    "winogrande": (
        {"sentence": STRING, "option1": STRING, "option2": STRING, "answer": STRING},
        {"sentence": "_ ran", "option1": "Al", "option2": "Bo"},
        "sentence: _ ran first: Al second: Bo",
        "1",
    ),
    "commonsense_qa": _choice("question"),
    "openbookqa": _choice("question_stem"),
    "arc": _choice("question"),
    "e2e": (
        {"meaning_representation": STRING, "human_reference": STRING},
        {"meaning_representation": "name[X]", "human_reference": "X is."},
        "name[X]",
        ("X is.",),
    ),
    "web_nlg": (
        {"input": datasets.List(STRING), "target": STRING, "references": datasets.List(STRING)},
        {"input": ["A | b | C", "C | d | E"], "target": "A.", "references": ["A.", "B."]},
        "A | b | C, C | d | E",
        ("A.", "B."),
    ),
}


def write_split(
    folder: Path, config: str | None, split: str, rows: dict[str, list[object]], features: dict[str, Any]
) -> None:
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    (folder / (config or "data")).mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / (config or "data") / f"{split}-00000-of-00001.parquet")


def write_card(folder: Path, configs: dict[str | None, list[str]]) -> None:
    """Write the card whose front matter names each configuration's files, as the hub's data sets have it."""
    text = "---\nconfigs:\n"
    for config, splits in configs.items():
        text += f"- config_name: {config or 'default'}\n  data_files:\n"
        text += "".join(f"  - split: {split}\n    path: {config or 'data'}/{split}-*\n" for split in splits)
    (folder / "README.md").write_text(text + "---\n")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with mirrors of hub data sets under their ids."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", sorted(GLUE))
def test_glue(mirror: Path, name: str) -> None:
    recipe = load_recipe(RECIPES / "glue" / f"{name}.toml")
    columns, labels = GLUE[name]
    features = dict.fromkeys(columns, STRING)
    features |= {"label": datasets.ClassLabel(names=labels), "idx": datasets.Value("int32")}
    splits = ("train", "validation_matched" if name == "mnli" else "validation")
    for split, count in zip(splits, (1200, 40), strict=True):
        rows: dict[str, list[object]] = {column: [f"{split} {column} {i}" for i in range(count)] for column in columns}
        rows |= {"label": [i % len(labels) for i in range(count)], "idx": list(range(count))}
        write_split(mirror / "nyu-mll/glue", name, split, rows, features)
    write_card(mirror / "nyu-mll/glue", {name: list(splits)})
    data = load_task(recipe, Path("nowhere"), test=True)
    assert sorted(data.labels) == sorted(labels)
    small = name in {"cola", "mrpc", "rte"}
    assert (len(data.train), len(data.validation)) == ((1200, 20) if small else (200, 1000))
    assert data.test is not None
    assert len(data.test) == (20 if small else 40)
    first = tuple(f"train {column} 0" for column in columns)
    assert data.train.texts[0] == (first if len(first) == 2 else first[0])
    assert data.labels[data.train.labels[1]] == labels[1]
    texts = [set(examples.texts) for examples in (data.train, data.validation, data.test)]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (RECIPES / "paper").glob("*.toml")))
def test_paper(mirror: Path, name: str) -> None:
    """Rows in the hub's columns become the template's text, with their labels or answers."""
    recipe = load_recipe(RECIPES / "paper" / f"{name}.toml")
    features, row, text, answer = PAPER[name]
    assert recipe.hub is not None
    hub = mirror / recipe.hub
    splits = sorted({getattr(recipe, split).partition("[")[0] for split in ("train", "validation", "test")})
    other = {column: value for column, value in row.items() if column in recipe.where}
    for split in splits:
        rows = {column: [value] * 1200 for column, value in row.items()}
        label = features.get(recipe.label)
        if isinstance(label, datasets.ClassLabel):
            rows[recipe.label] = [i % label.num_classes for i in range(1200)]
        elif not recipe.is_generation:
            rows[recipe.label] = [answer, *list(recipe.labels or ("A", "B"))[:2]] * 400
        for column in other:
            rows[column] = [row[column], "another"] * 600
        write_split(hub, recipe.config, split, rows, features)
    write_card(hub, {recipe.config: splits})
    data = load_task(recipe, Path("nowhere"), test=True)
    assert render(recipe.template, data.train.texts[0]) == text
    if recipe.is_generation:
        assert data.train.references[0] == answer
    else:
        assert data.labels[data.train.labels[0]] == answer
        assert set(recipe.labels) <= set(data.labels)
    assert data.test is not None
    assert all(len(examples) for examples in (data.train, data.validation, data.test))
    assert not recipe.where or len(data.train) == 600


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_is_read_and_states_the_origin_of_its_data(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.license
    assert recipe.source
    assert recipe.test
