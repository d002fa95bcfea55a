"""Values of columns in arrays and in Arrow, with the missing ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mpt_edge.batch.answer_columns import Kind
from mpt_edge.batch.columns import array_of, arrow_type, check_free, open_batch
from mpt_edge.errors import InputError

TOKENS = [{"text": "x", "start": 0, "end": 1, "label": "B", "score": 0.5}]

COLUMNS = {
    Kind.TEXT: ["a", None],
    Kind.NUMBER: [0.5, None],
    Kind.COUNT: [3, None],
    Kind.FLAG: [True, False],
    Kind.VECTOR: [np.array([1, 2], np.float32), None],
    Kind.TOKENS: [TOKENS, None],
}


@pytest.mark.parametrize("kind", Kind)
def test_arrays(kind: Kind) -> None:
    result = array_of(COLUMNS[kind], kind, 2)
    assert len(result) == 2
    if kind is Kind.VECTOR:
        assert (result.dtype, result.shape, result[0].tolist()) == (np.float32, (2, 2), [1, 2])
        assert np.isnan(result[1]).all()
    elif kind is Kind.NUMBER:
        np.testing.assert_array_equal(result, [0.5, np.nan])
    else:
        assert result.tolist() == COLUMNS[kind]
    assert array_of([], Kind.VECTOR, 2).shape == (0, 2)
    assert array_of([1, 2], Kind.COUNT, 2).dtype == np.int64


def test_all_kinds_are_added_to_frames_and_tables() -> None:
    schema = {kind.name: kind for kind in Kind}
    columns = {kind.name: values for kind, values in COLUMNS.items()}
    table = open_batch(pa.table({"id": [1, 2]})).extended(columns, schema, 2)
    assert table.schema.names == ["id", *schema]
    assert table.schema.types[1:] == [arrow_type(kind) for kind in Kind]
    frame = open_batch(pd.DataFrame({"id": [1, 2]})).extended(columns, schema, 2)
    for name, values in columns.items():
        expected = [list(each) if isinstance(each, np.ndarray) else each for each in values]
        assert table.column(name).to_pylist() == expected
        assert frame[name].isna().tolist() == [each is None for each in values]


def test_columns_that_are_taken() -> None:
    check_free(["text"], ["label"], "rename it")
    with pytest.raises(InputError, match="there is a column 'label' already, which answers would replace; rename it"):
        check_free(["text", "label"], ["label"], "rename it")
