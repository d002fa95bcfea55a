"""Tables from local files: the same from each format, and one sentence for each fault."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.training.data.columns import as_name
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
    assert_refused(make_recipe(".csv"), tmp_path, "does not start with a CSV header", "train.csv")


def test_rows_that_a_recipe_selects(tmp_path: Path) -> None:
    write_table(tmp_path / "train.jsonl", [{"text": "a", "of": "one"}, {"text": "b", "of": "two"}])

    def texts(**where: str) -> list[str]:
        return read_table(make_recipe(where=where), "train", tmp_path, ["text"]).column("text")

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
    assert_refused(make_recipe(validation=path.name), folder, "the validation split is empty")


def test_broken_json(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a film", "label": "good"}\n{"text": "a fi')
    assert_refused(
        make_recipe(), folder, f"{folder / 'train.jsonl'} line 2 is not JSON", "write one JSON object a line."
    )


def test_broken_parquet(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1 nothing")
    assert_refused(make_recipe(train="train.parquet"), folder, "cannot be read as Parquet", "train.parquet")


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nwhat a dull film,poor,0\n",  # an unquoted comma
        "text,label\na film,good,\n",  # a trailing comma
        "text,label\na film\n",
    ],
)
def test_rows_of_a_csv_have_the_cells_of_its_header(folder: Path, content: str) -> None:
    (folder / "train.csv").write_text(content)
    assert_refused(make_recipe(train="train.csv"), folder, "train.csv line 2 has", "the header has 2")


def test_a_column_twice(folder: Path) -> None:
    (folder / "train.csv").write_text("text,label,text\na film,good,a ball\n")
    assert_refused(make_recipe(train="train.csv"), folder, "has the column 'text' twice")
    (folder / "train.csv").write_text("text,label,x,x\na film,good,1,2\na ball,bad,3,4\n")
    assert load_task(make_recipe(train="train.csv"), folder).train.texts == ["a film", "a ball"]


def test_a_file_replaced_with_its_old_time_and_size_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    for word in ("dull", "good"):
        write_table(path, [{"text": f"a {word} film"}])
        os.utime(path, ns=(10**18, 10**18))
        assert read_table(make_recipe(), "train", tmp_path, ["text"]).column("text") == [f"a {word} film"]


@pytest.mark.parametrize("name", ["fold[1]", "a*b", "what?", "zip::x", "https:", "a b", "größe"])
def test_any_path_is_a_path(tmp_path: Path, name: str) -> None:
    for folder, text in ((name, "right"), ("fold1", "wrong"), ("ab", "wrong")):
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder / "train.csv", [{"text": text}])
    table = read_table(make_recipe(train=f"{name}/train.csv"), "train", tmp_path, ["text"])
    assert table.column("text") == ["right"]


def _labels(path: Path, lines: str, **changes: object) -> list[object]:
    path.write_text(lines, encoding="utf-8")
    table = read_table(make_recipe(train=path.name, **changes), "train", path.parent, ["label"])
    return [as_name(value) for value in table.column("label")]


def test_values_are_spelled_as_in_the_file(tmp_path: Path) -> None:
    lines = ['{"label": "2024-01-05"}', '{"label": "2024-02-06"}']
    assert _labels(tmp_path / "dates.jsonl", "\n".join(lines)) == ["2024-01-05", "2024-02-06"]
    numbers = ["4", "0.5", "1e3", "-0", "12345678901234567890", "3.10"]
    lines = [f'{{"label": {number}}}' for number in numbers]
    assert _labels(tmp_path / "numbers.jsonl", "\n".join(lines)) == numbers
    assert _labels(tmp_path / "numbers.json", f"[{', '.join(lines)}]") == numbers
    assert _labels(tmp_path / "numbers.csv", "label\n" + "\n".join(numbers) + "\n") == numbers


def test_not_a_number_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2 is not JSON"):
        _labels(tmp_path / "nan.jsonl", '{"label": 1}\n{"label": NaN}\n')
    write_table(tmp_path / "train.parquet", [{"text": "a", "label": 1.5}, {"text": "b", "label": float("nan")}])
    assert_refused(make_recipe(".parquet"), tmp_path, "row 2 of the train split has no label")


def test_dates_of_a_parquet_file(tmp_path: Path) -> None:
    day = dt.date(2024, 1, 5)
    write_table(tmp_path / "train.parquet", [{"text": "a", "label": day}])
    assert read_table(make_recipe(".parquet"), "train", tmp_path, ["label"]).column("label") == ["2024-01-05"]


def test_unused_columns_may_change_their_type(tmp_path: Path) -> None:
    lines = [f'{{"text": "a", "label": "x", "id": {i}}}' for i in range(50_000)]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, '{"text": "b", "label": "x", "id": {"n": [1]}}']))
    assert len(read_table(make_recipe(), "train", tmp_path, ["text", "label"])) == 50_001


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_a_byte_order_mark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    write_table(path, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_table(make_recipe(suffix), "train", tmp_path, ["text"]).column("text") == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    "place",
    [
        "/etc/passwd",
        "../outside.jsonl",
        "a/../../outside.jsonl",
        "~/outside.jsonl",
        "C:\\outside.jsonl",
        "..\\o.jsonl",
        "\0",
    ],
)
def test_paths_out_of_the_data_folder(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_table(tmp_path / "outside.jsonl", [{"text": "a", "label": "x"}])
    (tmp_path / "data" / "a").mkdir(parents=True)
    part = "no file" if place.startswith("~") else "leads out of the data folder; name a file below it"
    assert_refused(make_recipe(train=place), tmp_path / "data", part)


def test_links_of_the_data_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        write_table(tmp_path / f"{name}.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
        (tmp_path / "data" / f"{name}.jsonl").symlink_to(tmp_path / f"{name}.jsonl")
    assert load_task(make_recipe(test=None), tmp_path / "data").train.texts == ["a", "b"]
