"""Parts of files: rows as the whole file has them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpt_edge.batch.parts import find_files, read_parts
from mpt_edge.batch.rows import Columns, InputRow, from_stream
from mpt_edge.errors import InputError
from mpt_edge.formats.records import BadRecord, Format


def rows(path: Path, count: int, columns: Columns | None = None) -> list[InputRow | BadRecord]:
    parts = list(read_parts(find_files(path, None), count))
    assert [part.number for part in parts] == list(range(len(parts)))
    return [row for part in parts for row in part.open(columns or Columns()).rows]


@pytest.mark.parametrize("count", [1, 2, 100])
def test_lines(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,task\n"a\nb",x\n\nc,\nd\ne,y\n')
    with path.open("rb") as stream:
        expected = list(from_stream(stream, str(path), Format.CSV, Columns()).rows)
    assert rows(path, count) == expected
    assert [row.number for row in expected] == [2, 5, 6, 7]


@pytest.mark.parametrize("count", [1, 3, 100])
def test_parquet(tmp_path: Path, count: int) -> None:
    pq.write_table(pa.table({"a": [f"t{i}" for i in range(8)]}), path := tmp_path / "a.parquet", row_group_size=5)
    assert rows(path, count, Columns("a")) == [InputRow(f"t{i}", None, i + 1) for i in range(8)]
    with pytest.raises(InputError, match=r"a\.parquet has no column 'text', it has 'a'"):
        rows(path, count)


def test_positions_and_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b\nc\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    parts = list(read_parts(find_files(tmp_path, None), 1))
    assert [part.position for part in parts] == [14, 16, 18]
    assert str(parts[2]) == f"the 1 rows of {tmp_path / 'b.txt'} from line 2 on"


def test_files_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no file that ends in \.jsonl, \.ndjson, \.csv, \.txt, \.parquet; pass"):
        find_files(tmp_path, None)
    with pytest.raises(InputError, match="none is no file and no folder; check the path"):
        find_files(tmp_path / "none", None)
    for name in ("a.txt", "b.parquet"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="has Parquet and other files; put one kind into a folder of its own"):
        find_files(tmp_path, None)
    assert find_files(tmp_path / "a.txt", Format.JSONL) == [(tmp_path / "a.txt", Format.JSONL)]
