"""The recipes that ship: those of hub data sets read a local mirror laid out as the hub lays it out."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from mpt_edge.training.data import load_task
from mpt_edge.training.recipes import load_recipe

RECIPES = Path(__file__).parents[2] / "models" / "recipes"

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


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``nyu-mll/glue`` below a folder, with 1,200 training rows a configuration, and go there."""
    folder = tmp_path / "nyu-mll" / "glue"
    configs = []
    for name, (columns, labels) in GLUE.items():
        features = {column: datasets.Value("string") for column in columns}
        features |= {"label": datasets.ClassLabel(names=labels), "idx": datasets.Value("int32")}
        files = []
        for split, count in (("train", 1200), ("validation_matched" if name == "mnli" else "validation", 40)):
            rows = {column: [f"{split} {column} {i}" for i in range(count)] for column in columns}
            rows |= {"label": [i % len(labels) for i in range(count)], "idx": list(range(count))}
            table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
            (folder / name).mkdir(parents=True, exist_ok=True)
            table.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
            files.append(f"  - split: {split}\n    path: {name}/{split}-*")
        configs.append(f"- config_name: {name}\n  data_files:\n" + "\n".join(files))
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", sorted(GLUE))
def test_glue(mirror: Path, name: str) -> None:
    recipe = load_recipe(RECIPES / "glue" / f"{name}.toml")
    data = load_task(recipe, Path("nowhere"), test=True)
    columns, labels = GLUE[name]
    assert sorted(data.labels) == sorted(labels)
    small = name in {"cola", "mrpc", "rte"}
    assert (len(data.train), len(data.validation)) == ((1200, 20) if small else (200, 1000))
    assert len(data.test) == (20 if small else 40)
    first = tuple(f"train {column} 0" for column in columns)
    assert data.train.texts[0] == (first if len(first) == 2 else first[0])
    assert data.labels[data.train.labels[1]] == labels[1]
    texts = [set(rows.texts) for rows in (data.train, data.validation, data.test)]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_is_read_and_says_where_its_data_comes_from(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.licence
    assert recipe.source
    assert recipe.test
