"""Examples with labels and examples to generate: their order, their samples, and one sentence for each fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import Examples, TaskData, encode, few_shot, load_task
from mpt_edge.training.data.recipes import Recipe
from tests.support.tables import ROWS, assert_refused, make_recipe, write_table


def test_a_sample_has_each_label_in_its_share() -> None:
    """Files are often sorted by label: the first 50 examples would have one label."""
    labels = [0] * 600 + [1] * 300 + [2] * 90 + [3] * 10
    examples = Examples([f"t{i}" for i in range(1000)], labels)
    sample = examples.sample(100)
    assert np.bincount(sample.labels).tolist() == [60, 30, 9, 1]
    indices = [int(str(text)[1:]) for text in sample.texts]
    assert indices == sorted(set(indices))
    assert [labels[i] for i in indices] == sample.labels
    assert sample == examples.sample(100)
    for count in (1, 7, 333, 999):
        assert len(set(examples.sample(count).texts)) == count
    for count in (1000, 5000):
        assert examples.sample(count) is examples


def test_a_sample_of_examples_to_generate_is_spread() -> None:
    examples = Examples([f"t{i}" for i in range(1000)], [], [(f"r{i}",) for i in range(1000)])
    sample = examples.sample(100)
    indices = [int(str(text)[1:]) for text in sample.texts]
    assert (len(indices), indices) == (100, sorted(set(indices)))
    assert sample.references == [(f"r{i}",) for i in indices]
    assert sum(i >= 500 for i in indices) == pytest.approx(50, abs=15)


def test_taken_examples_keep_their_order() -> None:
    examples = Examples(["a", "b", "c"], [0, 1, 0])
    assert examples.take(np.array([2, 0])) == Examples(["a", "c"], [0, 0])
    assert examples.head(2) == Examples(["a", "b"], [0, 1])


def test_test_split_is_read_only_on_request(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    assert load_task(make_recipe(), folder).test is None
    with pytest.raises(InputError, match=r"no file .*test\.jsonl"):
        load_task(make_recipe(), folder, test=True)
    assert load_task(make_recipe(test=None), folder, test=True).test is None


def test_labels_keep_the_order_of_the_recipe(folder: Path) -> None:
    data = load_task(make_recipe(labels={"good": ("g",), "bad": ("b",), "meh": ("m",)}), folder)
    assert data.labels == ("good", "bad", "meh")
    assert data.train.labels == [0, 1, 0]


def test_number_labels_become_text(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    data = load_task(make_recipe(), tmp_path)
    assert (data.labels, data.train.labels) == (("0", "1"), [1, 0])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_booleans_are_true_and_false(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}{suffix}", rows)
    data = load_task(make_recipe(suffix), tmp_path)
    assert (data.labels, data.train.labels) == (("false", "true"), [1, 0])
    generated = make_recipe(suffix, head_type="generation", target="label", where={"label": "true"})
    assert load_task(generated, tmp_path).train.references == [("true",)]


def test_pairs_template_and_own_columns(tmp_path: Path, tiny: EncoderBackbone) -> None:
    rows = [{"a": "good film", "b": "bad film", "gold": "no"}, {"a": "a ball", "b": "a game", "gold": "yes"}]
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.jsonl", rows)
    pairs = make_recipe(inputs=Inputs.PAIR, text="a", text_pair="b", label="gold")
    data = load_task(pairs, tmp_path)
    assert data.train.texts == [("good film", "bad film"), ("a ball", "a game")]
    plain = encode(tiny.texts, pairs, data.train.texts, 16)[0]
    assert plain.types == [0] * 4 + [1] * 3
    joined = encode(tiny.texts, replace(pairs, template="{text_pair} vote {text}"), data.train.texts, 16)[0]
    assert joined.ids == tiny.texts.encode(["bad film vote good film"], 16)[0].ids


def test_pairs_to_generate_from(tmp_path: Path) -> None:
    rows = [{"text": "one", "text_pair": "two", "target": "both"}]
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.jsonl", rows)
    data = load_task(make_recipe(inputs=Inputs.PAIR, head_type="generation"), tmp_path)
    assert (data.train.texts, data.train.references) == ([("one", "two")], [("both",)])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_unlisted_label_names_its_row(folder: Path, split: str) -> None:
    write_table(folder / f"{split}.jsonl", [*ROWS, {"text": "a film", "label": "ugly"}])
    listed = make_recipe(labels={"good": ("g",), "bad": ("b",)})
    assert_refused(listed, folder, f"row 4 of the {split} split", "'ugly'", "[labels]")


def test_label_of_validation_that_training_never_shows(folder: Path) -> None:
    write_table(folder / "validation.jsonl", [ROWS[0], {"text": "a film", "label": "ugly"}])
    assert_refused(make_recipe(), folder, "row 2 of the validation split", "'ugly'")


def test_one_label_is_no_choice(folder: Path) -> None:
    write_table(folder / "train.jsonl", ROWS[:1])
    assert_refused(make_recipe(), folder, "one label", "two")


def test_row_without_label(folder: Path) -> None:
    write_table(folder / "train.jsonl", [*ROWS, {"text": "a film", "label": None}])
    assert_refused(make_recipe(), folder, "row 4 of the train split")


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_row_without_text(folder: Path, text: object) -> None:
    rows = [*ROWS, {"text": text, "label": "good"}] if not isinstance(text, int) else [{"text": 3, "label": "good"}]
    write_table(folder / "validation.jsonl", rows)
    assert_refused(make_recipe(), folder, f"row {len(rows)} of the validation split")


@pytest.mark.parametrize("shots", [1, 2])
def test_few_examples_of_each_label(folder: Path, shots: int) -> None:
    """Training has the count of each label; validation may have fewer, and the test split stays whole."""
    rows = [{"text": f"{label} {i}", "label": label} for label in ("good", "bad") for i in range(5)]
    write_table(folder / "train.jsonl", rows)
    data = load_task(make_recipe(), folder, test=True)
    drawn = few_shot(data, shots, seed=1)
    assert np.bincount(drawn.train.labels).tolist() == [shots, shots]
    assert np.bincount(drawn.validation.labels).tolist() == [1, shots]
    assert drawn.test == data.test
    assert drawn.train == few_shot(data, shots, seed=1).train
    with pytest.raises(InputError, match="the label 'bad' has 5 training examples, fewer than 6; lower --shots"):
        few_shot(data, 6, seed=1)


def generation(folder: Path, rows: list[dict[str, object]], **entries: object) -> Recipe:
    """Write rows and return a recipe that generates from them."""
    write_table(folder / "rows.jsonl", rows)
    return Recipe("say", "rows.jsonl", "rows.jsonl", head_type="generation", text="source", **entries)  # type: ignore[arg-type]


def load(folder: Path, rows: list[dict[str, object]], **entries: object) -> TaskData:
    return load_task(generation(folder, rows, **entries), folder)


def test_examples_to_generate(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"source": "a", "target": "x", "references": ["x", "z"]},
        {"source": "b", "target": "y", "references": None},
    ]
    data = load(tmp_path, rows)
    assert data.labels == ()
    assert data.train.texts == ["a", "b"]
    assert data.train.references == [("x", "z"), ("y",)]
    assert data.train.head(1).references == [("x", "z")]
    assert data.test is None


def test_selected_rows_to_generate(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"source": "a", "target": "x", "of": "one"},
        {"source": "b", "target": "y", "of": "two"},
    ]
    assert load(tmp_path, rows, where={"of": "two"}).train.texts == ["b"]
    with pytest.raises(InputError, match="train split is empty"):
        load(tmp_path, rows, where={"of": "three"})


@pytest.mark.parametrize("target", [None, "  ", [], ["x", ""]])
def test_a_row_with_nothing_to_generate(tmp_path: Path, target: object) -> None:
    with pytest.raises(InputError, match="row 1 of the train split has nothing to generate"):
        load(tmp_path, [{"source": "a", "target": target}])


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("target", ["good", "nan", "3,5"])
def test_a_target_that_is_no_number_for_a_metric_of_numbers(tmp_path: Path, metric: str, target: str) -> None:
    rows: list[dict[str, object]] = [{"source": "a", "target": "3.8"}, {"source": "b", "target": target}]
    with pytest.raises(InputError, match=f"say: row 2 of the train split has '{target}' .* {metric} compares numbers"):
        load(tmp_path, rows, metric=metric)
    assert load(tmp_path, rows, metric="bleu").train.references == [("3.8",), (target,)]
    assert len(load(tmp_path, rows[:1], metric=metric).train) == 1


def test_a_missing_column_within_a_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'gloss'"):
        load(tmp_path, [{"source": "a", "target": "b"}], target="{gloss}!")


def test_few_examples_to_generate(tmp_path: Path) -> None:
    """Without labels to draw from, it is that many examples in all."""
    data = load(tmp_path, [{"source": f"s{i}", "target": f"t{i}"} for i in range(9)])
    drawn = few_shot(data, 4, seed=1)
    assert len(drawn.train) == len(drawn.validation) == 4
    assert [answers[0].replace("t", "s") for answers in drawn.train.references] == drawn.train.texts
    assert drawn.train.texts != few_shot(data, 4, seed=2).train.texts
    with pytest.raises(InputError, match="9 training examples, fewer than 10"):
        few_shot(data, 10, seed=1)
