"""One process and several take the same steps: the real command with launchers."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mpt_edge.training
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.hardware import Hardware, is_main_process
from mpt_edge.training.runlog import read_log
from mpt_edge.training.settings import MixedPrecision
from tests.support import commands

THINGS = ("film", "movie", "ball", "game", "vote", "law", "party", "atom")


ACCELERATE = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "bf16", "--dynamo_backend", "no"]


def write_task(folder: Path, name: str, words: tuple[str, str]) -> Path:
    rows = [{"text": f"the {words[i % 2]} {THINGS[i * 3 % 8]}", "label": ("no", "yes")[i % 2]} for i in range(20)]
    for split in ("train", "validation"):
        (folder / f"{name}-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = folder / f"{name}.toml"
    recipe.write_text(f'name = "{name}"\ntrain = "{name}-train.jsonl"\nvalidation = "{name}-validation.jsonl"\n')
    return recipe


def options(recipes: list[Path], backbone: Path, output: Path) -> list[object]:
    # Two processes cannot share the five rows of a batch evenly.
    short = [
        "--epochs",
        "2",
        "--batch-size",
        "5",
        "--max-tasks",
        "0",
        "--prompt-length",
        "4",
        "--teacher-epochs",
        "1",
    ]
    named = ["--data", recipes[0].parent, "--backbone", backbone, "--output", output, "--threads", 1]
    return ["train", "source", *recipes, *named, *short]


def launch(launcher: list[str], arguments: list[object], cache: Path) -> str:
    return subprocess.run(
        [sys.executable, *launcher, "-m", "mpt_edge", *map(str, arguments)],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        text=True,
    ).stdout


def test_two_processes_write_what_one_writes(tiny_folder: Path, tmp_path: Path) -> None:
    """Each reads a share of every batch; only the first reports."""
    recipes = [write_task(tmp_path, "mood", ("dull", "witty")), write_task(tmp_path, "size", ("great", "good"))]
    assert commands.run_here(*options(recipes, tiny_folder, tmp_path / "one")).returncode == 0
    # `accelerate launch` starts GPU processes in this way, and needs MPI for CPU processes.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    printed = launch(torchrun, options(recipes, tiny_folder, tmp_path / "two"), tmp_path / "cache")
    assert printed.count("written to") == 1
    one_alone = launch(ACCELERATE, options(recipes[:1], tiny_folder, tmp_path / "launched"), tmp_path / "cache")
    assert one_alone.count("written to") == 1
    for name in ("mood", "size"):
        one, two = (TaskFile.load(tmp_path / run / f"tasks/{name}.safetensors") for run in ("one", "two"))
        assert np.abs(one.u.astype(float) - 1).max() > 0.01
        np.testing.assert_allclose(one.u, two.u, atol=2e-3)
        np.testing.assert_allclose(one.v, two.v, atol=2e-3)
    curves = [[entry["mean"] for entry in read_log(tmp_path / run) if "mean" in entry] for run in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], abs=0.06)  # rounding may change one of twenty answers
    assert len(curves[1]) == 2


def test_one_process_has_everything() -> None:
    hardware = Hardware(MixedPrecision.NO)
    assert hardware.main
    assert is_main_process()
    assert hardware.share(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert all(hardware.mine(index) for index in range(3))
    assert hardware.summed([0.5, 2]) == [0.5, 2]
    assert hardware.state() == {}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 computes on this machine's accelerator")
def test_float16_needs_an_accelerator() -> None:
    """In a process of its own: the first precision of a process is kept."""
    code = "from mpt_edge.training.hardware import Hardware; Hardware('fp16')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "fp16 needs a GPU" in result.stderr
    assert "pass --precision no or bf16." in result.stderr


@pytest.mark.parametrize("own", [None, "99"])
def test_few_shapes_of_products_are_kept_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name) if own is None else monkeypatch.setenv(name, own)
    importlib.reload(mpt_edge.training)
    assert os.environ[name] == (own or "16")
