"""Rows from local files: the same from each format, and one sentence for each fault."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from mpt_edge.errors import InputError
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import Rows, encode, load_task

ROWS = [
    {"text": "a witty film, really", "label": "good"},
    {"text": 'a "dull" film', "label": "bad"},
    {"text": "größer\nthan the star", "label": "good"},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe(suffix: str = ".jsonl", **changes: object) -> Recipe:
    return replace(Recipe("toy", f"train{suffix}", f"validation{suffix}", test=f"test{suffix}"), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", ROWS)
    return tmp_path


def test_a_sample_has_each_label_in_its_share() -> None:
    """Rows sorted by label, as many files are: the first 50 would have one label."""
    labels = [0] * 600 + [1] * 300 + [2] * 90 + [3] * 10
    rows = Rows([f"t{i}" for i in range(1000)], labels)
    found = rows.sample(100)
    assert np.bincount(found.labels).tolist() == [60, 30, 9, 1]
    places = [int(str(text)[1:]) for text in found.texts]
    assert places == sorted(set(places))
    assert [labels[i] for i in places] == found.labels
    assert found == rows.sample(100)
    for count in (1, 7, 333, 999):
        assert len(set(rows.sample(count).texts)) == count
    for count in (1000, 5000):
        assert rows.sample(count) is rows


def test_a_sample_of_rows_to_generate_is_spread() -> None:
    rows = Rows([f"t{i}" for i in range(1000)], [], [(f"r{i}",) for i in range(1000)])
    found = rows.sample(100)
    places = [int(str(text)[1:]) for text in found.texts]
    assert (len(places), places) == (100, sorted(set(places)))
    assert found.references == [(f"r{i}",) for i in places]
    assert sum(i >= 500 for i in places) == pytest.approx(50, abs=15)


def test_each_format_gives_the_same_rows(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv", ".parquet", ".json"):
        for split, rows in (("train", ROWS), ("validation", ROWS[1:]), ("test", ROWS[:1])):
            write(tmp_path / f"{split}{suffix}", rows)
        data = load_task(recipe(suffix), tmp_path, test=True)
        assert data.labels == ("bad", "good")
        assert data.train.texts == [row["text"] for row in ROWS], suffix
        assert data.train.labels == [1, 0, 1]
        assert (data.validation.texts, data.validation.labels) == ([r["text"] for r in ROWS[1:]], [0, 1])
        assert data.test is not None
        assert (data.test.texts, data.test.labels) == ([ROWS[0]["text"]], [1])
        assert len(data.train) == 3


def test_test_split_is_read_only_where_asked_for(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    assert load_task(recipe(), folder).test is None
    with pytest.raises(InputError, match=r"no file .*test\.jsonl"):
        load_task(recipe(), folder, test=True)
    assert load_task(recipe(test=""), folder, test=True).test is None


def test_order_of_the_recipe_labels_rules(folder: Path) -> None:
    data = load_task(recipe(labels={"good": ("g",), "bad": ("b",), "meh": ("m",)}), folder)
    assert data.labels == ("good", "bad", "meh")
    assert data.train.labels == [0, 1, 0]


def test_number_labels_become_text(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    data = load_task(recipe(), tmp_path)
    assert (data.labels, data.train.labels) == (("0", "1"), [1, 0])


def test_cells_of_a_csv_are_the_texts_they_are(tmp_path: Path) -> None:
    """Guessed types made 1.0 of 1, 1 of 01, and nothing of NA and None."""
    rows = [{"text": text, "label": label} for text, label in (("1", "01"), ("2.50", "None"), ("NA", "NA"), ("x", "1"))]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.csv", rows)
    data = load_task(recipe(".csv", where={"label": "01"}, labels={"01": ("a",), "1": ("b",)}), tmp_path)
    assert (data.train.texts, data.train.labels) == (["1"], [0])
    data = load_task(recipe(".csv"), tmp_path)
    assert data.train.texts == ["1", "2.50", "NA", "x"]
    assert data.labels == ("01", "1", "NA", "None")
    assert data.train.labels == [0, 3, 2, 1]
    data = load_task(recipe(".csv", kind="generation", text="label", target="text"), tmp_path)
    assert data.train.references == [("1",), ("2.50",), ("NA",), ("x",)]


def test_empty_cells_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na film,good\na ball,\n")
    fails(recipe(".csv"), tmp_path, "row 2 of the train split has no label")
    (tmp_path / "train.csv").write_text("")
    fails(recipe(".csv"), tmp_path, "cannot read", "train.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_booleans_are_true_and_false(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}{suffix}", rows)
    data = load_task(recipe(suffix), tmp_path)
    assert (data.labels, data.train.labels) == (("false", "true"), [1, 0])
    chosen = recipe(suffix, kind="generation", target="label", where={"label": "true"})
    assert load_task(chosen, tmp_path).train.references == [("true",)]


def test_pairs_template_and_own_columns(tmp_path: Path, tiny: EncoderBackbone) -> None:
    rows = [{"a": "good film", "b": "bad film", "gold": "no"}, {"a": "a ball", "b": "a game", "gold": "yes"}]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    pairs = recipe(kind="pair", text="a", text_pair="b", label="gold")
    data = load_task(pairs, tmp_path)
    assert data.train.texts == [("good film", "bad film"), ("a ball", "a game")]
    plain = encode(tiny.texts, pairs, data.train.texts, 16)[0]
    assert plain.types == [0] * 4 + [1] * 3
    joined = encode(tiny.texts, replace(pairs, template="{text_pair} vote {text}"), data.train.texts, 16)[0]
    assert joined.ids == tiny.texts.encode(["bad film vote good film"], 16)[0].ids


def fails(chosen: Recipe, folder: Path, *parts: str) -> str:
    with pytest.raises(InputError) as caught:
        load_task(chosen, folder)
    message = str(caught.value)
    assert message.startswith("toy: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_missing_file(folder: Path) -> None:
    fails(recipe(train="none.jsonl"), folder, "no file", str(folder / "none.jsonl"), "--data")


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "sub.jsonl").mkdir()
    fails(recipe(train="sub.jsonl"), folder, str(folder / "sub.jsonl"))


def test_format_that_is_not_read(folder: Path) -> None:
    (folder / "train.tsv").write_text("text\tlabel\na\tb\n")
    fails(recipe(train="train.tsv"), folder, "train.tsv", ".jsonl", ".csv", ".parquet")


@pytest.mark.parametrize("entry", ["text", "label"])
def test_missing_column(folder: Path, entry: str) -> None:
    fails(recipe(**{entry: "sentence"}), folder, "train split", "'sentence'", "text, label")


def test_missing_column_of_the_second_text(folder: Path) -> None:
    fails(recipe(kind="pair"), folder, "'text_pair'")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_unlisted_label_names_its_row(folder: Path, split: str) -> None:
    write(folder / f"{split}.jsonl", [*ROWS, {"text": "a film", "label": "ugly"}])
    listed = recipe(labels={"good": ("g",), "bad": ("b",)})
    fails(listed, folder, f"row 4 of the {split} split", "'ugly'", "[labels]")


def test_label_of_validation_that_training_never_shows(folder: Path) -> None:
    write(folder / "validation.jsonl", [ROWS[0], {"text": "a film", "label": "ugly"}])
    fails(recipe(), folder, "row 2 of the validation split", "'ugly'")


def test_one_label_is_no_choice(folder: Path) -> None:
    write(folder / "train.jsonl", ROWS[:1])
    fails(recipe(), folder, "one label", "two")


def test_label_that_is_not_there_is_no_label(folder: Path) -> None:
    write(folder / "train.jsonl", [*ROWS, {"text": "a film", "label": None}])
    fails(recipe(), folder, "row 4 of the train split")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_empty_split(folder: Path, suffix: str) -> None:
    path = folder / f"empty{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), path)
    else:
        path.write_text("text,label\n" if suffix == ".csv" else "")
    fails(recipe(validation=path.name), folder, path.name, "it is empty" if suffix == ".jsonl" else "it has no rows")


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_row_without_text(folder: Path, text: object) -> None:
    rows = [*ROWS, {"text": text, "label": "good"}] if not isinstance(text, int) else [{"text": 3, "label": "good"}]
    write(folder / "validation.jsonl", rows)
    fails(recipe(), folder, f"row {len(rows)} of the validation split")


def test_broken_json(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a film", "label": "good"}\n{"text": "a fi')
    fails(recipe(), folder, "cannot read", str(folder / "train.jsonl"))


def test_broken_parquet(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 nothing")
    fails(recipe(train="train.parquet"), folder, "cannot read", "train.parquet")
