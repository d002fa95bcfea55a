"""One process and several take the same steps: the real command under launchers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.runlog import read_log

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


def launch(prefix: list[str], recipes: list[Path], backbone: Path, output: Path) -> str:
    # Five rows a step and task, which two processes cannot share evenly.
    options = ["--epochs", "2", "--batch-size", "5", "--max-tasks", "0", "--length", "4", "--teacher-epochs", "1"]
    command = [*prefix, "-m", "mpt_edge", "train", "source", *recipes, "--data", recipes[0].parent]
    return subprocess.run(
        [*map(str, command), *options, "--backbone", str(backbone), "--output", str(output), "--threads", "1"],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"HF_DATASETS_CACHE": str(output / "cache"), "OMP_NUM_THREADS": "1"},
        text=True,
    ).stdout


def test_two_processes_write_what_one_writes(tiny_folder: Path, tmp_path: Path) -> None:
    """Both read a share of every batch; only the first reports."""
    recipes = [write_task(tmp_path, "mood", ("dull", "witty")), write_task(tmp_path, "size", ("great", "good"))]
    launch([sys.executable], recipes, tiny_folder, tmp_path / "one")
    # `accelerate launch` starts GPU processes in this way; for CPU processes it would need MPI.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    printed = launch([sys.executable, *torchrun], recipes, tiny_folder, tmp_path / "two")
    assert printed.count("written to") == 1
    one_alone = launch([sys.executable, *ACCELERATE], recipes[:1], tiny_folder, tmp_path / "launched")
    assert one_alone.count("written to") == 1
    for name in ("mood", "size"):
        one, two = (TaskFile.load(tmp_path / run / f"tasks/{name}.safetensors") for run in ("one", "two"))
        assert np.abs(one.u.astype(float) - 1).max() > 0.01
        np.testing.assert_allclose(one.u, two.u, atol=2e-3)
        np.testing.assert_allclose(one.v, two.v, atol=2e-3)
    curves = [[entry["mean"] for entry in read_log(tmp_path / run) if "mean" in entry] for run in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], abs=0.06)  # one of twenty rows may fall to the other side
    assert len(curves[1]) == 2
