"""`mpt-edge run --engine local`: the answers of a plain run, in parts; a second run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import commands
from tests.support.outcomes import refused
from tests.support.rows import answered, rows_of

Command = Callable[..., commands.Result]


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def test_parts_together_are_the_output_of_a_plain_run(run: Command, many: Path, tmp_path: Path) -> None:
    arguments = ("--input", many, "--engine", "local", "--part-rows", "300", "--output", tmp_path / "out")
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"mpt-edge: 2,000 answers are in {tmp_path / 'out'}.\n"
    rows = rows_of("".join(path.read_text() for path in parts(tmp_path / "out")))
    assert len(parts(tmp_path / "out")) == 7
    assert rows == answered(run("--json", "--input", many))
    parts(tmp_path / "out")[4].unlink()
    assert "mpt-edge: 6 of 7 parts were finished before.\n" in run(*arguments).stderr
    assert rows_of("".join(path.read_text() for path in parts(tmp_path / "out"))) == rows


def test_a_process_that_is_killed_answers_no_finished_part_twice(
    tiny_bundle: Path, run: Command, tmp_path: Path
) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"film {'good ' * 9}{i}\n" for i in range(3000)))
    options = ["--task", "topic", "--input", path, "--engine", "local", "--part-rows", "100"]
    arguments = [*options, "--output", tmp_path / "out"]
    command = [Path(sys.executable).with_name("mpt-edge"), "run", "--bundle", tiny_bundle, *arguments]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as process:
        while len(parts(tmp_path / "out")) < 2 and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = {each: each.stat().st_mtime_ns for each in parts(tmp_path / "out")}
    assert 2 <= len(before) < 30
    assert f"{len(before)} of 30 parts were finished before." in run(*arguments).stderr
    assert {each: each.stat().st_mtime_ns for each in before} == before
    rows = rows_of("".join(each.read_text() for each in parts(tmp_path / "out")))
    assert [row["line"] for row in rows] == list(range(1, 3001))


def test_a_folder_of_parquet(run: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        pq.write_table(pa.table({"id": [f"{name}{i}" for i in range(3)], "text": ["atom", " ", "ball"]}),
                       tmp_path / "in" / f"{name}.parquet")  # fmt: skip
    arguments = ("--task", "topic", "--input", tmp_path / "in", "--engine", "local", "--output", tmp_path / "out")
    assert "a.parquet row 2: the text is empty" in refused(run(*arguments))
    result = run(*arguments, "--on-error", "skip")
    assert result.returncode == 0
    assert "skipped 2 of 6 rows." in result.stderr
    table = pa.concat_tables(map(pq.read_table, parts(tmp_path / "out")))
    assert table.column("id").to_pylist() == ["a0", "a2", "b0", "b2"]
    assert table.column("label").null_count == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["atom", "--engine", "local"], "--engine answers files; pass --input with a file or a folder."),
        (["--engine", "local", "--input", "-"], "--engine answers files; pass --input with a file or a folder."),
        (["--engine", "local", "--input", "f.txt"], "--engine writes a folder of parts; pass --output FOLDER"),
        (["--engine", "local", "--input", "f.txt", "--output", "f.txt"], "f.txt is no folder, and --engine writes"),
        (["--engine", "local", "--input", ".", "--output", "."], ". is the folder that is read; pass another"),
        (["--engine", "local", "--input", "none", "--output", "o"], "none is no file and no folder; check the path."),
        (["--engine", "local", "--input", "f.txt", "--output", "o", "--seed", "1"], "generate no text; leave --seed"),
        (["--engine", "local", "--input", "f.txt", "--output", "o", "--answer-prefix", "a"], "is for columns of Parq"),
        (["--workers", "2", "--input", "f.txt"], "--workers and --part-rows are for parts; pass --engine local"),
    ],
)
def test_bad_arguments(run: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "f.txt").write_text("atom\n")
    assert says in refused(run("--task", "topic", *arguments, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


def test_missing_task_and_missing_ray(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.txt").write_text("atom\n")
    files = ("--input", tmp_path / "f.txt", "--output", tmp_path / "o")
    assert "no task is named; pass --task NAME" in refused(run(*files, "--engine", "local"))
    assert "did you mean 'topic'" in refused(run(*files, "--engine", "local", "--task", "topik"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'mpt-edge[ray]'" in refused(run(*files, "--engine", "ray", "--task", "topic"))
