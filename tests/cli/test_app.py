"""Exit status and streams of the command, and one sentence for every missing, damaged or nonsense bundle."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge._files import sha256
from tests.support import bundles, commands
from tests.support.outcomes import done, refused
from tests.support.rows import rows_of

Command = Callable[..., commands.Result]


def test_version() -> None:
    assert done(commands.run_here("--version")) == f"{mpt_edge.__version__}\n"


def test_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "mpt_edge", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"{mpt_edge.__version__}\n"


@pytest.mark.parametrize("is_file", [False, True])
def test_a_run_that_ends_at_once_has_written_all(tiny_bundle: Path, many: Path, tmp_path: Path, is_file: bool) -> None:
    """It leaves without Python's own way out, which would write what waits."""
    path = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "mpt_edge", "run", "--bundle", tiny_bundle, "--input", many, "--json"]
    if is_file:
        end = subprocess.run([*command, "--output", path], capture_output=True, check=False)
    else:
        with path.open("w") as file:
            end = subprocess.run(command, stdout=file, check=False)
    assert end.returncode == 0
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()] == list(
        range(1, 1 + len(many.read_text().splitlines()))
    )


def test_reader_that_goes_away(tiny_bundle: Path, many: Path) -> None:
    command = [Path(sys.executable).with_name("mpt-edge"), "run", "--bundle", tiny_bundle, "--input", many, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


@pytest.mark.parametrize("arguments", [["tasks", "list"], ["run", "--task", "topic", "a film"]], ids=str)
def test_reader_that_is_not_there(tiny_bundle: Path, arguments: list[str]) -> None:
    command = [Path(sys.executable).with_name("mpt-edge"), *arguments, "--bundle", tiny_bundle]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_output_that_is_closed(tiny_bundle: Path) -> None:
    command = shlex.join(map(str, [Path(sys.executable).with_name("mpt-edge"), "run", "--task", "topic", "a film"]))
    done = subprocess.run(["bash", "-c", f"{command} --bundle {tiny_bundle} >&-"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--batch-size", "0", "a"], ["--format", "xml", "a"]])
def test_wrong_usage(run_process: Command, arguments: list[str]) -> None:
    result = run_process("--task", "topic", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Usage: mpt-edge run" in result.stderr
    assert arguments[0] in result.stderr


def test_unknown_command() -> None:
    result = commands.run_here("rum")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "No such command 'rum'" in result.stderr


def test_debug_shows_the_traceback(run: Command) -> None:
    result = run("--task", "zzz", "a film", "--debug")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("mpt-edge: no task 'zzz'")


def test_debug_after_two_dashes_is_a_text(run: Command) -> None:
    result = run("--task", "topic", "--json", "--", "--debug")
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["text"] for row in rows_of(result.stdout)] == ["--debug"]


# Bundles.


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def change_manifest(bundle: Path, **entries: object) -> None:
    bundles.edit(bundle, lambda manifest: manifest.update(entries))


@pytest.mark.parametrize(
    ("make", "says"),
    [(False, "build it with `mpt-edge export minilm-l6 --output "), (True, "pass the folder that holds")],
)
def test_missing_bundle(tmp_path: Path, make: bool, says: str) -> None:
    folder = tmp_path / "empty"
    if make:
        folder.mkdir()
    message = refused(commands.run_here("run", "--bundle", folder, "--task", "topic", "atom"))
    assert f"no bundle in {folder}; {says}" in message
    assert "or name another with --bundle" in message


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data", "prompts/mpt.safetensors", "tasks/topic.safetensors"],
)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (None, "is missing; export the bundle again or restore the file."),
        (
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            "is damaged (its SHA-256 is not the manifest's); restore it or",
        ),
        (lambda data: data[:-9], " bytes instead of "),
    ],
)
def test_damaged_file(copy: Path, name: str, damage: Callable[[bytes], bytes] | None, says: str) -> None:
    file = copy / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    message = refused(commands.run_here("run", "--bundle", copy, "--task", "topic", "atom"))
    assert message.startswith(f"mpt-edge: {file} ")
    assert says in message


def test_damage_is_no_row_to_skip(copy: Path) -> None:
    (copy / "tasks/topic.safetensors").write_bytes(b"")
    lines = "".join(json.dumps({"text": "atom", "task": task}) + "\n" for task in ("sentiment", "topic", "sentiment"))
    options = ["--input", "-", "--format", "jsonl", "--json", "--on-error", "skip"]
    result = commands.run_here("run", "--bundle", copy, *options, input=lines)
    assert "tasks/topic.safetensors" in refused(result)
    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tokenizer.json", "is not the file that bundle.json describes; export the bundle again."),
        ("onnx/model.onnx", "is no ONNX graph ("),
        ("prompts/mpt.safetensors", "is not a readable safetensors file; restore it from where it came."),
        ("tasks/topic.safetensors", "is not a readable safetensors file; restore it from where it came."),
    ],
)
def test_nonsense_that_the_manifest_vouches_for(copy: Path, name: str, says: str) -> None:
    (copy / name).write_bytes(b"nonsense" * 9)
    files = json.loads((copy / "bundle.json").read_text())["files"]
    change_manifest(copy, files=files | {name: {"size": 72, "sha256": sha256(copy / name)}})
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))  # native code prints nothing
    assert f"{copy / name} {says}" in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not a bundle manifest; export the bundle again."),
        (b"[]", "is not a bundle manifest; export the bundle again."),
        (b'{"schema": 1', "is not a bundle manifest; export the bundle again."),
        (b"\xff\xfe{}", "is not a bundle manifest; export the bundle again."),
        (b'{"name": "x"}', "is not a bundle manifest; export the bundle again."),
        (b'{"schema": 99}', "was written by a newer mpt-edge (schema 99; this one reads 1); upgrade it."),
        (b'{"schema": 1, "name": "x"}', "lacks the entry 'sha256'; export the bundle again."),
        (bundles.sealed({"schema": 1, "name": "x"}), "lacks the entry 'family'; export the bundle again."),
    ],
)
def test_corrupt_manifest(copy: Path, data: bytes, says: str) -> None:
    (copy / "bundle.json").write_bytes(data)
    message = refused(commands.run_here("run", "--bundle", copy, "--task", "topic", "atom"))
    assert f"{copy / 'bundle.json'} {says}" in message


@pytest.mark.parametrize(
    "entries",
    [
        {"files": {"tokenizer.json": "x"}},
        {"files": {"onnx/model.onnx": {"sha256": "x"}}},
        {"prompts": {"mpt": 1}},
        {"files": 5},
        {"hidden_size": "x"},
        {"max_length": "9"},
        {"pad_id": "a"},
        {"heads": 3},
        {"layers": 1},
        {"layers": 9},
        {"token_types": False},
        {"pooling": "sum"},
    ],
    ids=str,
)
def test_manifest_with_an_unusable_entry(copy: Path, entries: dict) -> None:
    change_manifest(copy, **entries)
    message = refused(commands.run_here("run", "--bundle", copy, "--task", "topic", "atom"))
    assert "again" in message or "made for this bundle" in message


def test_manifest_that_leads_out_of_the_folder(copy: Path) -> None:
    change_manifest(copy, files={"../secret": {"size": 1, "sha256": ""}})
    message = refused(commands.run_here("run", "--bundle", copy, "--task", "topic", "atom"))
    assert "lists the path '../secret', which is not allowed" in message


def test_a_command_imports_no_other() -> None:
    code = "import sys; from mpt_edge.cli.app import build_app; build_app('run'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "mpt_edge.cli.run" in loaded
    assert {"mpt_edge.cli.train", "mpt_edge.cli.serve", "mpt_edge.cli.tasks", "mpt_edge.cli.bench"}.isdisjoint(loaded)
