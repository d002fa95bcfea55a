"""A predictor in Dask, unchanged: partitions, their types without a `meta`, and one load of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from mpt_edge import Model
from mpt_edge.batch import Predictor

dask = pytest.importorskip("dask")
frames = pytest.importorskip("dask.dataframe")


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def test_partitions(tiny_bundle: Path, tiny_model: Model) -> None:
    texts = [f"film {'good ' * (i % 5)}{i}" for i in range(30)]
    frame = frames.from_pandas(pd.DataFrame({"text": texts}), npartitions=4)
    result = frame.map_partitions(Predictor(tiny_bundle, task="topic", errors="column")).compute()
    assert result["text"].tolist() == texts
    assert result["label"].tolist() == [answer.label for answer in tiny_model.run(texts, "topic")]
    assert result["error"].isna().all()


def test_columns_are_those_of_an_empty_frame(tiny_bundle: Path) -> None:
    """Dask calls functions without a `meta` on rows of its own, with a missing text."""
    frame = frames.from_pandas(pd.DataFrame({"text": ["atom", "ball"]}), npartitions=2)
    predict = Predictor(tiny_bundle, task="topic")
    result = frame.map_partitions(predict, meta=predict(frame._meta)).compute()
    assert list(result) == ["text", "label", "score", "abstain", "truncated", "unknown"]
