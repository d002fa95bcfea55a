"""The README: its blocks run as typed, print the output shown, and its tables are those of the task files."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.formats.taskfile import TaskFile
from tests.support.blocks import Example, assert_shown, examples
from tests.support.pages import shell
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = sorted((ROOT / "models" / "minilm-l6" / "tasks").glob("*.safetensors"))
EXAMPLES = list(examples(README))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a clone looks after `make demo`, with the default bundle built."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    shutil.copytree(ROOT / "models" / "recipes", folder / "models" / "recipes")
    shutil.copytree(ROOT / "data", folder / "data")
    for kind in ("prompts", "tasks"):
        shutil.copytree(ROOT / "models" / "minilm-l6" / kind, folder / "models" / "minilm-l6" / kind)
    done = shell("mpt-edge export minilm-l6 --output models/minilm-l6", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_there_are_commands_python_and_training():
    assert {example.language for example in EXAMPLES} == {"sh", "python"}
    assert all(example.output for example in EXAMPLES if "mkdir" not in example.code)
    assert any("train target" in example.code for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_block_prints_the_output_shown(clone: Path, example: Example):
    """Later blocks need the files of earlier ones, and pytest keeps the order."""
    printed = example.run(clone)
    if example.output:
        assert_shown(printed, example.output)


@pytest.mark.parametrize(
    "module",
    [
        "mpt_edge",
        "mpt_edge.formats.bundle",
        "mpt_edge.formats.taskfile",
        "mpt_edge.inference.loading",
        "mpt_edge.inference.model",
        "mpt_edge.inference.task",
    ],
)
def test_docstrings_show_real_output(clone: Path, module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(clone)
    names = {"mpt_edge": mpt_edge, "Bundle": mpt_edge.Bundle}
    results = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_card_is_the_one_that_the_task_files_give(clone: Path):
    written = (clone / "models" / "minilm-l6" / "README.md").read_text(encoding="utf-8")
    assert written == (ROOT / "models" / "minilm-l6" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_task_is_small_and_has_a_baseline(path: Path):
    task = TaskFile.load(path)
    assert task.own_prompt is None
    assert {"test", "validation", "linear_probe"} <= set(task.metrics)
    assert {"test", "validation"} <= set(task.metrics["linear_probe"])
    assert task.metrics["linear_probe"]["train_examples"] == task.training["examples"]
    assert task.license
    assert task.reference_example
    assert len(task.labels) > 10 or path.stat().st_size <= 4096


def test_sst2_is_above_its_linear_probe():
    metrics = TaskFile.load(ROOT / "models" / "minilm-l6" / "tasks" / "sst2.safetensors").metrics
    assert metrics["test"]["accuracy"] > metrics["linear_probe"]["test"]["accuracy"]


def test_the_table_of_shipped_tasks_is_that_of_the_task_files():
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert sorted(row[0] for row in rows) == [path.stem for path in SHIPPED]
    for name, labels, ours, probe in rows:
        task = TaskFile.load(ROOT / "models" / "minilm-l6" / "tasks" / f"{name}.safetensors")
        assert int(labels) == len(task.labels)
        assert ours == f"{100 * task.metrics['test']['accuracy']:.1f}"
        assert probe == f"{100 * task.metrics['linear_probe']['test']['accuracy']:.1f}"


def test_makefile_targets_named_in_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = [
        README,
        *(path.read_text(encoding="utf-8") for path in [ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]),
    ]
    targets = {target for page in pages for target in re.findall(r"(?:^|`)make ([\w-]+)", page, re.MULTILINE)}
    assert {"demo", "test", "docs", "format"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"])
def test_links_stay_inside_the_clone(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert "../" not in text
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link
