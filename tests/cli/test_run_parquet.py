"""`mpt-edge run` on Parquet: columns kept, answers as columns, and the sentence for every bad file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mpt_edge.batch.parquet_answers
from mpt_edge import Model
from tests.support import commands
from tests.support.outcomes import refused
from tests.support.rows import agree, answered, write

Command = Callable[..., commands.Result]

TEXTS = [f"film {'good ' * (i * 7 % 11)}{i}" for i in range(1300)]


def save(path: Path, rows: int = 400, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_columns_are_kept(run: Command, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpt_edge.batch.parquet_answers, "_GROUP_BYTES", 1 << 14)
    monkeypatch.setattr(mpt_edge.cli.run, "WINDOW", 300)
    days = pa.array([date(2026, 1, 1 + i % 28) for i in range(1300)])
    path = save(tmp_path / "a.parquet", day=days, text=TEXTS, nested=[{"a": [i]} for i in range(1300)])
    result = run("--task", "topic", "--input", path, "--output", tmp_path / "b.parquet")
    assert result.stderr == f"mpt-edge: 1,300 answers are in {tmp_path / 'b.parquet'}.\n"
    table = pq.read_table(tmp_path / "b.parquet")
    assert table.schema.names == ["day", "text", "nested", "label", "score", "abstain", "truncated", "unknown"]
    assert table.select(["day", "text", "nested"]) == pq.read_table(path)
    expected = model.run(TEXTS, "topic")
    assert table.column("label").to_pylist() == [answer.label for answer in expected]
    assert table.column("score").to_pylist() == pytest.approx([answer.score for answer in expected], abs=1e-6)
    assert pq.ParquetFile(tmp_path / "b.parquet").num_row_groups > 2


def test_parquet_to_json_lines(run: Command, model: Model, tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", text=["atom", "good"], text_pair=[None, "great"], task=["topic", "same"])
    rows = answered(run("--json", "--input", path))
    assert [(row["line"], row.get("text_pair")) for row in rows] == [(1, None), (2, "great")]
    agree(rows, model, ["atom", ("good", "great")], ["topic", "same"])


def test_json_lines_to_parquet(run: Command, model: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "atom"}, {"text": "good", "text_pair": "great", "task": "same"})
    run("--task", "topic", "--input", path, "--output", tmp_path / "b.parquet", "--answer-prefix", "my_")
    first, second = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert list(first) == [
        "task",
        "text",
        "text_pair",
        "line",
        "my_label",
        "my_score",
        "my_abstain",
        "my_truncated",
        "my_unknown",
    ]
    assert (first["task"], first["text"], first["text_pair"], first["line"]) == ("topic", "atom", None, 1)
    assert (second["task"], second["text_pair"], second["line"]) == ("same", "great", 2)
    assert second["my_label"] == model.task("same")(("good", "great")).label


def test_bad_rows_stop_or_are_skipped(run: Command, tmp_path: Path) -> None:
    texts = ["atom", "ball", None, " ", "film"]
    path = save(tmp_path / "a.parquet", 2, id=[1, 2, 3, 4, 5], text=texts)
    output = tmp_path / "b.parquet"
    arguments = ("--task", "topic", "--input", path, "--output", output)
    result = run(*arguments)
    kept, sentence = result.stderr.splitlines()
    assert result.returncode == 1
    assert sentence == (
        f"mpt-edge: {path} row 3 has null where a text belongs; write it as a string; or pass --on-error skip."
    )
    part = output.with_name("b.parquet.part")
    assert kept == f"mpt-edge: the answers so far are in {part}."
    assert pq.read_table(part).column("id").to_pylist() == [1, 2]
    assert not output.exists()
    result = run(*arguments, "--on-error", "skip")
    assert result.returncode == 0
    assert "skipped 2 of 5 rows." in result.stderr
    assert pq.read_table(output).column("id").to_pylist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"review": ["a"]}, "has no column 'text', it has 'review'; name the right one with --text-column."),
        (
            {"text": ["a"], "label": ["x"]},
            "a column 'label' already, which answers would replace; pass --answer-pre",
        ),
        ({"text": [1]}, "a.parquet row 1 has 1 where a text belongs; write it as a string; or pass --on-error skip."),
        ({"text": pa.array([], pa.string())}, "a.parquet holds no rows"),
    ],
)
def test_bad_files(run: Command, tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    path = save(tmp_path / "a.parquet", **columns)
    assert says in refused(run("--task", "topic", "--input", path, "--output", tmp_path / "b.parquet"))
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]


def test_bad_arguments(run: Command, tmp_path: Path) -> None:
    pipe = ("--input", "-", "--format", "parquet")
    assert "Parquet cannot be read from a pipe; save it as a file" in refused(run("--task", "topic", *pipe, input="x"))
    assert "--answer-prefix is for columns of Parquet" in refused(run("--task", "topic", "a", "--answer-prefix", "x"))
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    assert "cannot be read as Parquet" in refused(run("--task", "topic", "--input", tmp_path / "a.parquet"))
