"""A predictor in Dask, unchanged: partitions, their types without a `meta`, and one load."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mpt_edge import Model
from mpt_edge.batch import Predictor

dask = pytest.importorskip("dask")
frames = pytest.importorskip("dask.dataframe")


def test_partitions(tiny_bundle: Path, tiny_model: Model) -> None:
    texts = [f"film {'good ' * (i % 5)}{i}" for i in range(30)]
    frame = frames.from_pandas(pd.DataFrame({"text": texts}), npartitions=4)
    with dask.config.set(scheduler="threads", num_workers=2):
        result = frame.map_partitions(Predictor(tiny_bundle, task="topic")).compute()
    assert result["text"].tolist() == texts
    assert result["label"].tolist() == [answer.label for answer in tiny_model.run(texts, "topic")]
