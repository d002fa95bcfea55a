"""Whatever a reader can type runs: the README's commands and Python, on the default bundle."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mpt_edge.formats.taskfile import TaskFile
from tests.support.pages import shell
from tests.support.places import ROOT

DATA = ROOT.parent / "shared" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = "--epochs 1 --teacher-epochs 1 --examples-per-epoch 32 --length 4"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_few_rows(task: str, folder: Path) -> None:
    """Write the first two training rows of each label, and the first rows of the other splits."""
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = (DATA / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        kept, seen = [], Counter()
        for line in lines:
            label = json.loads(line)["label"]
            seen[label] += 1
            if seen[label] <= 2 if split == "train" else len(kept) < 24:
                kept.append(line)
        (folder / f"{split}.jsonl").write_text("\n".join(kept), encoding="utf-8")


def shortened(script: str) -> str:
    """Return a script whose training runs take seconds; an option given twice counts the last time."""
    script = script.replace("\\\n", " ")
    script = re.sub(r"(train source .*)", rf"\1 {SHORT}", script)
    return re.sub(r"(train target .*)", r"\1 --epochs 1 --examples-per-epoch 32", script)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a clone looks after `make demo`, with the default bundle built."""
    folder = tmp_path_factory.mktemp("clone") / "main"
    shutil.copytree(ROOT / "models" / "recipes", folder / "models" / "recipes")
    for kind in ("prompts", "tasks"):
        shutil.copytree(ROOT / "models" / "minilm-l6" / kind, folder / "models" / "minilm-l6" / kind)
    if DATA.is_dir():
        for task in [path.stem for path in (ROOT / "models" / "recipes" / "minilm-l6").glob("*.toml")]:
            write_few_rows(task, folder.parent / "shared" / "data" / task)
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
    train, install, shipped = (block for block in blocks("sh") if "runs/" in block)
    done = shell(shortened(train), workplace)
    assert done.returncode == 0, done.stderr
    assert (workplace / "runs/source/report.html").is_file()
    assert "3 tasks" in done.stdout
    done = shell(install, workplace)
    assert done.returncode == 0, done.stderr
    assert "installed cr" in done.stdout
    assert "removed cr" in done.stdout
    done = shell(shortened(shipped), workplace)
    assert done.returncode == 0, done.stderr
    assert len(list((workplace / "runs/shipped/tasks").iterdir())) == 9


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
    paths = list((ROOT / "models" / "minilm-l6" / "tasks").glob("*.safetensors"))
    assert paths
    for path in paths:
        task = TaskFile.load(path)
        assert task.two_vectors, path
        assert {"test", "validation", "probe"} <= set(task.metrics), path
        assert task.metrics["probe"]["train_rows"] == task.training["rows"], path
        assert task.license, path
        assert task.reference_example, path
        if len(task.labels) <= 10:
            assert path.stat().st_size <= 4096, path


def test_sst2_is_above_its_probe():
    metrics = TaskFile.load(ROOT / "models" / "minilm-l6" / "tasks" / "sst2.safetensors").metrics
    assert metrics["test"]["accuracy"] > metrics["probe"]["test"]["accuracy"]


def test_figures_in_the_readme_are_those_of_the_task_files():
    header, _, ours, probe = (
        [cell.strip() for cell in line.strip("|\n ").split("|")]
        for line in re.findall(r"^\|.*\|$", README.split("**Accuracy.**")[1], re.MULTILINE)[:4]
    )
    assert len(header) == 9
    for name, one, other in zip(header, ours[1:], probe[1:], strict=True):
        metrics = TaskFile.load(ROOT / "models" / "minilm-l6" / "tasks" / f"{name}.safetensors").metrics
        assert one == f"{100 * metrics['test']['accuracy']:.1f}"
        assert other == f"{100 * metrics['probe']['test']['accuracy']:.1f}"


def test_makefile_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
