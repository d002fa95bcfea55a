"""Predictor: the same answers as the model for every class of batch, and the sentence for every bad one."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mpt_edge import Model
from mpt_edge.batch import Predictor
from mpt_edge.errors import InputError, UnknownTaskError
from tests.support.writers import TEXTS as WRITER_TEXTS

TEXTS = ["a witty film", "a dull movie " * 20, "ball game", "🦀"]


@pytest.fixture(scope="module")
def topic(tiny_bundle: Path) -> Predictor:
    return Predictor(tiny_bundle, task="topic")


def arrays(**columns: list[Any]) -> dict[str, Any]:
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


MAKERS = {
    "arrays": arrays,
    "lists": lambda **columns: columns,
    "pandas": lambda **columns: pd.DataFrame(columns),
    "table": lambda **columns: pa.table(columns),
    "record batch": lambda **columns: pa.RecordBatch.from_pydict(columns),
}


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of any batch as dicts."""
    if isinstance(batch, pd.DataFrame):
        return batch.astype(object).where(batch.notna(), None).to_dict("records")
    if isinstance(batch, dict):
        batch = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in batch.items()}
        return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    return batch.to_pylist()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_answers_are_those_of_the_model(topic: Predictor, tiny_model: Model, make: Any) -> None:
    given = make(id=[4, 3, 2, 1], text=TEXTS)
    result = topic(given)
    assert type(result) is type(given)
    assert [row["id"] for row in rows_of(given)] == [4, 3, 2, 1]
    assert "label" not in rows_of(given)[0]  # the batch itself is as it was
    rows, expected = rows_of(result), tiny_model.run(TEXTS, "topic")
    assert list(rows[0]) == ["id", "text", "label", "score", "abstain", "truncated", "unknown"]
    assert [row["id"] for row in rows] == [4, 3, 2, 1]
    assert [row["label"] for row in rows] == [answer.label for answer in expected]
    assert [row["score"] for row in rows] == pytest.approx([answer.score for answer in expected], abs=1e-6)
    assert [row["truncated"] for row in rows] == [False, True, False, False]
    assert [row["unknown"] for row in rows] == [False, False, False, True]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_tasks_and_pairs_of_columns(tiny_bundle: Path, tiny_model: Model, make: Any) -> None:
    predict = Predictor(tiny_bundle, task="topic", task_column="task", pair_column="second", prefix="is_")
    given = make(text=["good", "atom", "a dull film"], second=["great", None, None], task=["same", None, "sentiment"])
    rows = rows_of(predict(given))
    expected = tiny_model.run([("good", "great"), "atom", "a dull film"], ["same", "topic", "sentiment"])
    assert [row["is_label"] for row in rows] == [answer.label for answer in expected]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_errors_in_a_column(tiny_bundle: Path, make: Any) -> None:
    predict = Predictor(tiny_bundle, task_column="task", errors="column")
    given = make(text=["atom", " ", None, "atom", "atom"], task=["topic", "topic", "topic", None, "topik"])
    rows = rows_of(predict(given))
    assert rows[0]["error"] is None
    assert [row["label"] for row in rows[1:]] == [None] * 4
    assert all(row["score"] is None or math.isnan(row["score"]) for row in rows[1:])
    empty, missing, taskless, unknown = [row["error"] for row in rows[1:]]
    assert empty == "the text is empty; pass at least one word."
    assert missing.startswith("expected a text or a pair of texts, got NoneType")
    assert taskless.startswith("there is no task in the column 'task'")
    assert unknown.endswith("did you mean 'topic'?")


def test_index_of_a_frame_is_kept(topic: Predictor) -> None:
    frame = pd.DataFrame({"text": ["atom", "ball game"]}, index=[7, 3])
    result = topic(frame)
    assert list(result.index) == [7, 3]
    assert result.loc[3, "label"] == topic(frame.loc[[3]])["label"].iloc[0]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_columns_of_empty_and_failed_batches_have_the_same_types(tiny_bundle: Path, make: Any) -> None:
    predict = Predictor(tiny_bundle, task="topic", errors="column")
    batches = [predict(make(text=texts)) for texts in (["atom"], [" "], [])]
    if isinstance(batches[0], pd.DataFrame):
        types = [batch.dtypes.drop("text").to_dict() for batch in batches]
    elif isinstance(batches[0], dict):
        types = [{name: batch[name].dtype for name in batch if name != "text"} for batch in batches]
    else:
        types = [dict(zip(batch.schema.names[1:], batch.schema.types[1:], strict=True)) for batch in batches]
    assert types[0] == types[1] == types[2]


def test_iterator_of_frames_as_spark_passes(topic: Predictor) -> None:
    read: list[int] = []

    def frames() -> Iterator[pd.DataFrame]:
        for i in range(3):
            read.append(i)
            yield pd.DataFrame({"text": [f"film {i}", "atom"]})

    results = topic(frames())
    assert len(next(results)) == 2
    assert read == [0]  # one at a time
    assert [len(each) for each in results] == [2, 2]


def test_a_pickled_predictor_loads_nothing_and_shares_the_model(
    topic: Predictor, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = topic({"text": TEXTS})
    data = pickle.dumps(topic)
    assert len(data) < 2000
    monkeypatch.setattr("mpt_edge.batch.shared_model.load", lambda *_, **__: pytest.fail("loads the model again"))
    copy = pickle.loads(data)
    assert copy({"text": TEXTS})["label"].tolist() == expected["label"].tolist()
    assert repr(copy) == f"Predictor({str(tiny_bundle)!r}, task=topic)"


def test_nothing_is_loaded_before_the_first_batch(tmp_path: Path) -> None:
    predict = Predictor(tmp_path / "later", task="topic")
    with pytest.raises(FileNotFoundError, match="later"):
        predict({"text": ["atom"]})


def test_generated_texts(writer_bundle: Path) -> None:
    import mpt_edge

    model = mpt_edge.load(writer_bundle, threads=1)
    name = next(each for each in model.tasks if model.task(each).file.head_type == "generation")
    predict = Predictor(writer_bundle, task=name, max_new_tokens=4)
    table = predict(pa.table({"text": WRITER_TEXTS}))
    expected = model.run(WRITER_TEXTS, name, max_new_tokens=4, answers=mpt_edge.Generation)
    assert table.column("output").to_pylist() == [answer.text for answer in expected]
    assert table.column("new_tokens").to_pylist() == [answer.new_tokens for answer in expected]
    assert table.column("finish").to_pylist() == [answer.finish for answer in expected]


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ("atom", "the batch is a str; pass a dict of arrays, a pandas DataFrame, or an Arrow table."),
        ({"review": ["atom"]}, "has no column 'text', it has 'review'; name the right one with text_column=."),
        ({"text": ["atom"], "label": [1]}, "a column 'label' already, which answers would replace; pass prefix="),
        ({"text": ["atom", ""]}, "row 2 of the batch: the text is empty; pass at least one word; or pass errors="),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "the batch has the column 'text' twice; rename one."),
    ],
)
def test_bad_batches(topic: Predictor, batch: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        topic(batch)
    assert says in str(caught.value)


def test_bad_arguments(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="no task is named; pass task="):
        Predictor(tiny_bundle)
    with pytest.raises(InputError, match="errors='skip' is not possible; pass 'raise' or 'column'"):
        Predictor(tiny_bundle, task="topic", errors="skip")  # type: ignore[arg-type]
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        Predictor(tiny_bundle, task="topik", errors="column")({"text": ["atom"]})
