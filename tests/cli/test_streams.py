"""Standard streams that are closed, full, without a reader, or unable to encode a character."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge.cli import streams

Shell = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = {
    "run": ["run", "--task", "topic", "atom"],
    "run --json": ["run", "--task", "topic", "--json", "atom"],
    "list": ["tasks", "list"],
    "list --json": ["tasks", "list", "--json"],
    "show": ["tasks", "show", "topic"],
    "verify": ["tasks", "verify"],
    "bench": ["bench", "--repeats", "3", "--json"],
}

commands = pytest.mark.parametrize("name", COMMANDS)
on_linux = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")


@pytest.fixture
def shell(tiny_bundle: Path) -> Shell:
    """Return a function that runs the command in a shell, with redirections."""

    def run(arguments: list[str], redirections: str, **variables: str) -> subprocess.CompletedProcess[str]:
        line = shlex.join([sys.executable, "-m", "mpt_edge", *arguments])
        variables |= {"MPT_EDGE_BUNDLE": str(tiny_bundle)}
        return subprocess.run(
            ["bash", "-c", f"{line} {redirections}"],
            capture_output=True, text=True, check=False, env=os.environ | variables, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@commands
def test_closed_output(shell: Shell, name: str) -> None:
    result = shell(COMMANDS[name], ">&-")
    assert (result.returncode, result.stderr) == (0, "")


@commands
def test_closed_error(shell: Shell, name: str) -> None:
    result = shell(COMMANDS[name], "2>&-")
    assert (result.returncode, bool(result.stdout)) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["run", "--task", "no", "a"], 1), (["run", "--no"], 2), (["tasks", "install", "no"], 1), (["rum"], 2)],
    ids=str,
)
def test_closed_error_leaves_output_to_answers(shell: Shell, arguments: list[str], status: int) -> None:
    result = shell(arguments, "2>&-")
    assert (result.returncode, result.stdout) == (status, "")


def test_notes_vanish_with_the_error_stream(shell: Shell, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("atom\n\natom\n", "utf-8")
    arguments = ["run", "--task", "topic", "--input", str(rows), "--json", "--on-error", "skip"]
    result = shell(arguments, "2>&-")
    assert result.returncode == 0
    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1, 3]


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_file_gets_no_number_of_a_closed_stream(shell: Shell, tmp_path: Path, closed: str) -> None:
    output = tmp_path / "out.jsonl"
    assert shell(["run", "--task", "topic", "--output", str(output), "atom"], closed).returncode == 0
    assert json.loads(output.read_text("utf-8"))["label"]


@pytest.mark.parametrize("arguments", [[], ["--input", "-"]], ids=str)
def test_closed_input(shell: Shell, arguments: list[str]) -> None:
    result = shell(["run", "--task", "topic", *arguments], "<&-")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("mpt-edge: there is nothing to read; pass a TEXT")


@on_linux
@pytest.mark.parametrize("name", [*COMMANDS, "--help", "--version"])
def test_full_output(shell: Shell, name: str) -> None:
    result = shell(COMMANDS.get(name, [name]), ">/dev/full")
    assert result.returncode == 1
    assert result.stderr == (
        "mpt-edge: standard output: No space left on device; check the path, or free some space.\n"
    )


@on_linux
def test_full_error(shell: Shell, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("\natom\n", "utf-8")
    result = shell(["run", "--task", "topic", "--json", "--on-error", "skip", "--input", str(rows)], "2>/dev/full")
    assert result.returncode == 0
    assert json.loads(result.stdout)["line"] == 2
    assert shell(["run", "--task", "no", "a"], "2>/dev/full").returncode == 1


def test_error_without_a_reader(shell: Shell, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("\natom\n", "utf-8")
    arguments = ["run", "--task", "topic", "--json", "--on-error", "skip", "--input", str(rows)]
    result = shell(arguments, "2> >(exec true)")
    assert json.loads(result.stdout)["line"] == 2


def test_narrow_error(shell: Shell) -> None:
    result = shell(["run", "--task", "m\u00fcll\u2192", "a"], "", PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 1
    assert "'m\\xfcll\\u2192'" in result.stderr


def test_narrow_output(shell: Shell, folder: Path, task_file) -> None:
    from mpt_edge import Bundle

    Bundle.open(folder).install_untested(task_file(labels=("schlecht", "s\u00fc\u00df\u2192")))
    narrow = {"PYTHONIOENCODING": "ascii:strict"}
    shown = shell(["tasks", "show", "fresh", "--bundle", str(folder)], "", **narrow)
    assert json.loads(shown.stdout)["labels"] == ["schlecht", "s\u00fc\u00df\u2192"]
    answered = shell(["run", "--bundle", str(folder), "--task", "fresh", "--json", "s\u00fc\u00df"], "", **narrow)
    assert json.loads(answered.stdout)["text"] == "s\u00fc\u00df"
    table = shell(["run", "--bundle", str(folder), "--task", "fresh", "s\u00fc\u00df \u2192"], "", **narrow)
    assert (table.returncode, table.stderr) == (0, "")
    assert "s??" in table.stdout


def test_file_name_that_is_no_text(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / os.fsdecode(b"b\xff")
    folder.rename(copy)
    command = [sys.executable, "-m", "mpt_edge", "tasks", "remove", "topic", "--bundle", copy]
    result = subprocess.run(command, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"removed topic")


def test_streams_of_a_process_without_a_console(tiny_bundle: Path) -> None:
    """As pythonw starts it: none of the streams is there."""
    code = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None; sys.argv = ['mpt-edge', *sys.argv[1:]]; "
        "from mpt_edge.cli import main; main()"
    )
    for arguments, status in ((["run", "--task", "topic", "atom"], 0), (["run", "--task", "no", "a"], 1), (["run"], 1)):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"MPT_EDGE_BUNDLE": str(tiny_bundle)}
        )
        assert (result.returncode, result.stdout, result.stderr) == (status, "", "")


def test_settle_drops_what_a_pipe_does_not_take() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        stream.write("text")
        streams.settle(stream)
