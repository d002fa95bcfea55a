"""`mpt-edge run` on bundles that are missing, damaged or nonsense: one sentence for each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge._files import sha256
from tests.support import commands
from tests.support.outcomes import refused


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def change_manifest(bundle: Path, **entries: object) -> None:
    file = bundle / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    ("make", "says"),
    [(False, "build it with `mpt-edge export minilm-l6 --output "), (True, "pass the folder that holds")],
)
def test_missing_bundle(tmp_path: Path, make: bool, says: str) -> None:
    folder = tmp_path / "empty"
    if make:
        folder.mkdir()
    message = refused(commands.run("run", "--bundle", folder, "--task", "topic", "atom"))
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
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))
    assert message.startswith(f"mpt-edge: {file} ")
    assert says in message


def test_damage_is_no_row_to_skip(copy: Path) -> None:
    (copy / "tasks/topic.safetensors").write_bytes(b"")
    lines = "".join(json.dumps({"text": "atom", "task": task}) + "\n" for task in ("sentiment", "topic", "sentiment"))
    options = ["--input", "-", "--format", "jsonl", "--json", "--on-error", "skip"]
    result = commands.run("run", "--bundle", copy, *options, input=lines)
    assert "tasks/topic.safetensors" in refused(result)
    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tokenizer.json", "is not a tokenizer file; export the bundle again."),
        ("onnx/model.onnx", "ONNX Runtime cannot load {}; export the bundle again."),
        ("prompts/mpt.safetensors", "is not a readable safetensors file; restore it from where it came."),
        ("tasks/topic.safetensors", "is not a readable safetensors file; restore it from where it came."),
    ],
)
def test_nonsense_that_the_manifest_vouches_for(copy: Path, name: str, says: str) -> None:
    (copy / name).write_bytes(b"nonsense" * 9)
    files = json.loads((copy / "bundle.json").read_text())["files"]
    change_manifest(copy, files=files | {name: {"size": 72, "sha256": sha256(copy / name)}})
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))
    assert says.format(copy / name) in message
    assert str(copy / name) in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not a bundle manifest; export the bundle again."),
        (b"[]", "is not a bundle manifest; export the bundle again."),
        (b'{"schema": 1', "is not a bundle manifest; export the bundle again."),
        (b"\xff\xfe{}", "is not a bundle manifest; export the bundle again."),
        (b'{"name": "x"}', "is not a bundle manifest; export the bundle again."),
        (b'{"schema": 99}', "was written by a newer mpt-edge (schema 99; this one reads 1); upgrade it."),
        (b'{"schema": 1, "name": "x"}', "lacks the entry 'family'; export the bundle again."),
    ],
)
def test_corrupt_manifest(copy: Path, data: bytes, says: str) -> None:
    (copy / "bundle.json").write_bytes(data)
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))
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
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))
    assert "again" in message or "made for this bundle" in message


def test_manifest_that_leads_out_of_the_folder(copy: Path) -> None:
    change_manifest(copy, files={"../secret": {"size": 1, "sha256": ""}})
    message = refused(commands.run("run", "--bundle", copy, "--task", "topic", "atom"))
    assert "lists the path '../secret', which is not allowed" in message
