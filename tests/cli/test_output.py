"""Answers in files: an older file is replaced at the end, or kept if the run fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mpt_edge import Model
from tests.support import commands
from tests.support.outcomes import refused
from tests.support.rows import agree, rows_of, write
from tests.support.writers import TEXTS

Command = Callable[..., commands.Result]


def test_output_file(run: Command, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    result = run("--task", "sentiment", "--output", path, "a witty film", "ein süßer Film")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"mpt-edge: 2 answers are in {path}.\n")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    rows = rows_of(path.read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == ["a witty film", "ein süßer Film"]
    agree(rows, model, ["a witty film", "ein süßer Film"], "sentiment")


@pytest.mark.parametrize("linked", [False, True])
def test_output_is_the_input(run: Command, tmp_path: Path, linked: bool) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "atom"})
    output = tmp_path / "link.jsonl" if linked else path
    if linked:
        output.symlink_to(path)
    message = refused(run("--task", "topic", "--input", path, "--output", output))
    assert f"{output} is the file that is read; name another with --output." in message
    assert rows_of(path.read_text()) == [{"text": "atom"}]


@pytest.mark.parametrize(("name", "data"), [("none.txt", ""), ("none.jsonl", "\n"), ("none.csv", "text,task\n")])
def test_a_file_without_rows_leaves_the_output_alone(run: Command, tmp_path: Path, name: str, data: str) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text("of yesterday\n")
    (tmp_path / name).write_text(data)
    message = refused(run("--task", "topic", "--input", tmp_path / name, "--output", output))
    assert f"{tmp_path / name} holds no rows; write one row a line" in message
    assert (output.read_text(), len(list(tmp_path.iterdir()))) == ("of yesterday\n", 2)


def test_a_row_that_stops_the_run_leaves_the_output_alone(run: Command, tmp_path: Path) -> None:
    """The answers before it are kept beside the file, until a later run succeeds."""
    output, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    output.write_text("of yesterday\n")
    path = tmp_path / "rows.txt"
    path.write_text("atom\n\nquark\n")
    given = ["--task", "topic", "--input", path, "--output", output]
    stopped = run(*given)
    said = stopped.stderr.splitlines()
    assert (stopped.returncode, said[0]) == (1, f"mpt-edge: the answers so far are in {part}.")
    assert len(said) == 2
    assert said[1].startswith(f"mpt-edge: {path} line 2: the text is empty")
    assert output.read_text() == "of yesterday\n"
    assert [row["text"] for row in rows_of(part.read_text())] == ["atom"]
    assert run(*given, "--on-error", "skip").returncode == 0
    assert ([row["line"] for row in rows_of(output.read_text())], part.exists()) == ([1, 3], False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other links and permissions")
def test_answers_are_never_written_through_a_link(run: Command, tmp_path: Path) -> None:
    output, other = tmp_path / "answers.jsonl", tmp_path / "other"
    output.write_text("of yesterday\n")
    output.chmod(0o600)
    other.write_text("of somebody else\n")
    (tmp_path / "answers.jsonl.part").symlink_to(other)
    assert run("--task", "topic", "--output", output, "atom").returncode == 0
    assert rows_of(output.read_text())[0]["text"] == "atom"
    assert output.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == "of somebody else\n"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without an end")
def test_a_device_without_an_end_is_not_read(run: Command) -> None:
    message = refused(run("--task", "topic", "--input", "/dev/zero", "--format", "text"))
    assert "/dev/zero is a device; pass a file, a pipe or - for standard input." in message
    assert "/dev/null holds no rows" in refused(run("--task", "topic", "--input", "/dev/null", "--format", "text"))


def test_answers_into_a_pipe(run_process: Command) -> None:
    """No file could take its place."""
    assert rows_of(run_process("--task", "topic", "--output", "/dev/stdout", "atom").stdout)[0]["text"] == "atom"


def test_a_refused_request_leaves_the_output_alone(writer_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text("of yesterday\n")
    given = ["--task", "story", "--bundle", writer_bundle, "--output", output]
    for arguments in ([TEXTS[0], "--temperature", -1], [""], [TEXTS[0], "--threads", 5000]):
        refused(commands.run_here("run", *given, *arguments))
        assert output.read_text() == "of yesterday\n"
    assert commands.run_here("run", *given, TEXTS[0]).returncode == 0
    (answer,) = map(json.loads, output.read_text().splitlines())
    assert answer["text"] == TEXTS[0]


def test_an_interrupted_run_keeps_what_was_written(writer_bundle: Path, tmp_path: Path) -> None:
    """Texts take long, so rows of a file are written batch by batch."""
    rows, output, part = (tmp_path / name for name in ("rows.txt", "answers.jsonl", "answers.jsonl.part"))
    rows.write_text(f"{TEXTS[0]}\n" * 20_000)
    output.write_text("of yesterday\n")
    command = [Path(sys.executable).with_name("mpt-edge"), "run", "--task", "story", "--bundle", writer_bundle]
    command += ["--input", rows, "--output", output, "--batch-size", "2"]
    # Ctrl-C reaches it even where the tests themselves run in the background, which ignores it.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listening) as process:  # noqa: PLW1509
        while not (part.is_file() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        said = process.stderr.read().splitlines()
    assert said == [f"mpt-edge: the answers so far are in {part}.", "mpt-edge: interrupted."]
    assert output.read_text() == "of yesterday\n"
    written = part.read_text().splitlines()
    assert 2 <= len(written) < 20_000
    assert [json.loads(line)["line"] for line in written] == list(range(1, len(written) + 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_no_space_left(run: Command) -> None:
    message = refused(run("--task", "topic", "--output", "/dev/full", "atom"))
    assert "mpt-edge: /dev/full: No space left on device; check the path" in message
