"""Tables from local files: the same from each format, and one sentence for each fault."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.training.data.examples import load_task
from mpt_edge.training.data.tables import read_table
from tests.support.tables import ROWS, assert_refused, make_recipe, write_table


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
def test_each_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    for split, rows in (("train", ROWS), ("validation", ROWS[1:]), ("test", ROWS[:1])):
        write_table(tmp_path / f"{split}{suffix}", rows)
    data = load_task(make_recipe(suffix), tmp_path, test=True)
    assert data.labels == ("bad", "good")
    assert data.train.texts == [row["text"] for row in ROWS]
    assert data.train.labels == [1, 0, 1]
    assert (data.validation.texts, data.validation.labels) == ([row["text"] for row in ROWS[1:]], [0, 1])
    assert data.test is not None
    assert (data.test.texts, data.test.labels) == ([ROWS[0]["text"]], [1])
    assert len(data.train) == 3


def test_cells_of_a_csv_stay_text(tmp_path: Path) -> None:
    """Guessed types would turn 1 into 1.0, 01 into 1, and NA and None into nothing."""
    rows = [{"text": text, "label": label} for text, label in (("1", "01"), ("2.50", "None"), ("NA", "NA"), ("x", "1"))]
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.csv", rows)
    data = load_task(make_recipe(".csv", where={"label": "01"}, labels={"01": ("a",), "1": ("b",)}), tmp_path)
    assert (data.train.texts, data.train.labels) == (["1"], [0])
    data = load_task(make_recipe(".csv"), tmp_path)
    assert data.train.texts == ["1", "2.50", "NA", "x"]
    assert data.labels == ("01", "1", "NA", "None")
    assert data.train.labels == [0, 3, 2, 1]
    data = load_task(make_recipe(".csv", head_type="generation", text="label", target="text"), tmp_path)
    assert data.train.references == [("1",), ("2.50",), ("NA",), ("x",)]


def test_empty_cells_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na film,good\na ball,\n")
    assert_refused(make_recipe(".csv"), tmp_path, "row 2 of the train split has no label")
    (tmp_path / "train.csv").write_text("")
    assert_refused(make_recipe(".csv"), tmp_path, "cannot read", "train.csv")


def test_rows_that_a_recipe_selects(tmp_path: Path) -> None:
    write_table(tmp_path / "train.jsonl", [{"text": "a", "of": "one"}, {"text": "b", "of": "two"}])

    def texts(**where: str) -> list[str]:
        return list(read_table(make_recipe(where=where), "train", tmp_path, ["text"])["text"])

    assert texts(of="two") == ["b"]
    with pytest.raises(InputError, match="train split is empty"):
        texts(of="three")
    with pytest.raises(InputError, match="no column 'kind'"):
        texts(kind="two")


def test_columns_within_a_text_must_be_there(tmp_path: Path) -> None:
    write_table(tmp_path / "train.jsonl", [{"q": "a", "c": {"d": "b"}}])
    assert len(read_table(make_recipe(), "train", tmp_path, ["{q} {c.d}", "c.d"])) == 1
    with pytest.raises(InputError, match="no column 'gloss'"):
        read_table(make_recipe(), "train", tmp_path, ["{q} {gloss}"])


def test_missing_file(folder: Path) -> None:
    assert_refused(make_recipe(train="none.jsonl"), folder, "no file", str(folder / "none.jsonl"), "--data")


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "sub.jsonl").mkdir()
    assert_refused(make_recipe(train="sub.jsonl"), folder, str(folder / "sub.jsonl"))


def test_unknown_format(folder: Path) -> None:
    (folder / "train.tsv").write_text("text\tlabel\na\tb\n")
    assert_refused(make_recipe(train="train.tsv"), folder, "train.tsv", ".jsonl", ".csv", ".parquet")


@pytest.mark.parametrize("entry", ["text", "label"])
def test_missing_column(folder: Path, entry: str) -> None:
    assert_refused(make_recipe(**{entry: "sentence"}), folder, "train split", "'sentence'", "text, label")


def test_missing_column_of_the_second_text(folder: Path) -> None:
    assert_refused(make_recipe(inputs=Inputs.PAIR), folder, "'text_pair'")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_empty_split(folder: Path, suffix: str) -> None:
    path = folder / f"empty{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), path)
    else:
        path.write_text("text,label\n" if suffix == ".csv" else "")
    reason = "it is empty" if suffix == ".jsonl" else "it has no rows"
    assert_refused(make_recipe(validation=path.name), folder, path.name, reason)


def test_broken_json(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a film", "label": "good"}\n{"text": "a fi')
    assert_refused(make_recipe(), folder, "cannot read", str(folder / "train.jsonl"))


def test_broken_parquet(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 nothing")
    assert_refused(make_recipe(train="train.parquet"), folder, "cannot read", "train.parquet")
