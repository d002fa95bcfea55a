"""Whatever a reader can type runs: the README's commands and Python, on the default bundle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpt_edge.taskfile import TaskFile

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = "--epochs 1 --teacher-epochs 1 --rows-per-epoch 32 --length 4"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a clone looks after `make demo`, with the default bundle built."""
    folder = tmp_path_factory.mktemp("clone") / "main"
    shutil.copytree(ROOT / "models" / "recipes", folder / "models" / "recipes")
    for kind in ("prompts", "tasks"):
        shutil.copytree(ROOT / "models" / "minilm-l6" / kind, folder / "models" / "minilm-l6" / kind)
    if DATA.is_dir():
        (folder.parent / "shared").mkdir()
        (folder.parent / "shared" / "data").symlink_to(DATA)
    (folder / "questions.txt").write_text("How many moons has Mars?\nWho wrote Faust?\n")
    shutil.copyfile(ROOT / "models" / "recipes" / "demo.jsonl", folder / "rows.jsonl")
    done = shell("mpt-edge export minilm-l6 --output models/minilm-l6", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_run_commands(workplace):
    block = next(block for block in blocks("sh") if "mpt-edge run" in block)
    done = shell(block, workplace)
    assert done.returncode == 0, done.stderr
    assert "positive" in done.stdout
    assert len((workplace / "answers.jsonl").read_text().splitlines()) == 8


def test_python_example(workplace):
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "label='positive'" in done.stdout.splitlines()[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets in ../shared/data")
def test_train_commands(workplace):
    block = next(block for block in blocks("sh") if "mpt-edge train" in block)
    short = re.sub(r"(train source .*)", rf"\1 {SHORT}", block)
    short = re.sub(r"(train target .*)", r"\1 --epochs 1 --rows-per-epoch 32", short)
    done = shell(short, workplace)
    assert done.returncode == 0, done.stderr
    assert "installed cr" in done.stdout


def test_every_shipped_task_answers_its_golden_example(workplace):
    done = shell("mpt-edge tasks verify", workplace)
    assert done.returncode == 0, done.stderr
    tasks = list((ROOT / "models" / "minilm-l6" / "tasks").glob("*.safetensors"))
    assert len(tasks) >= 8
    assert f"and {len(tasks)} tasks" in done.stdout


def test_the_card_is_the_one_that_the_task_files_give(workplace):
    written = (workplace / "models" / "minilm-l6" / "README.md").read_text(encoding="utf-8")
    assert written == (ROOT / "models" / "minilm-l6" / "README.md").read_text(encoding="utf-8")


def test_shipped_tasks_are_small_two_vectors_with_a_baseline():
    for path in (ROOT / "models" / "minilm-l6" / "tasks").glob("*.safetensors"):
        task = TaskFile.load(path)
        assert task.two_vectors, path
        assert {"test", "validation"} <= set(task.metrics), path
        assert task.licence, path
        assert task.golden, path
        if len(task.labels) <= 10:
            assert path.stat().st_size <= 4096, path


def test_makefile_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
