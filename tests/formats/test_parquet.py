"""Parquet: batches that cross no row group, and the sentence for a file that is none."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpt_edge.errors import InputError, MissingExtraError
from mpt_edge.formats.parquet import open_parquet, read_batches, read_parquet


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet"):
        read_parquet(tmp_path / "a.parquet")


def parquet(table: pa.Table, rows: int = 1000) -> io.BytesIO:
    pq.write_table(table, stream := io.BytesIO(), row_group_size=rows)
    stream.seek(0)
    return stream


def test_batches_are_the_table() -> None:
    table = pa.table({"n": list(range(25)), "text": [f"t{i}" for i in range(25)]})
    file = open_parquet(parquet(table, 10), "f")
    batches = list(read_batches(file, "f", 4))
    assert max(map(len, batches)) == 4
    assert pa.Table.from_batches(batches) == table
    assert [batch.column("n").to_pylist() for batch in read_batches(file, "f", 7, [2])] == [list(range(20, 25))]


def test_damage_is_named() -> None:
    with pytest.raises(InputError, match=r"^f cannot be read as Parquet \(.*\); write the file again\.$"):
        open_parquet(io.BytesIO(b"nothing"), "f")
    data = bytearray(parquet(pa.table({"text": ["a" * 50, "b" * 50] * 99})).getvalue())
    data[20:60] = b"x" * 40
    with pytest.raises(InputError, match=r"^f cannot be read as Parquet"):
        list(read_batches(open_parquet(io.BytesIO(data), "f"), "f", 10))


def test_column_twice() -> None:
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    with pytest.raises(InputError, match="f has the column 'text' twice; rename one"):
        open_parquet(parquet(table), "f")


def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mpt-edge\[parquet\]'"):
        open_parquet(io.BytesIO(b""), "f")
