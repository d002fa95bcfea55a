"""Shipped tasks of the model that writes: files, recipes, card and `make demo-generate` belong together."""

from __future__ import annotations

import re

import pytest

from mpt_edge.formats.metrics import baselines, figures
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.data.recipes import load_recipe
from tests.support.places import ROOT

MODEL = ROOT / "models" / "smollm2-135m"
RECIPES = {path.stem: path for path in sorted((ROOT / "models" / "recipes" / "smollm2-135m").glob("*.toml"))}


@pytest.fixture(scope="module")
def tasks() -> dict[str, TaskFile]:
    return VectorFolder(MODEL).tasks()


def test_each_recipe_has_a_task(tasks: dict[str, TaskFile]) -> None:
    assert set(tasks) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_task_is_two_vectors_on_the_one_prompt(tasks: dict[str, TaskFile], name: str) -> None:
    (prompt,) = VectorFolder(MODEL).prompts().values()
    task, recipe = tasks[name], load_recipe(RECIPES[name])
    assert (task.u.ndim, task.v.ndim, task.own_prompt) == (1, 1, None)
    assert task.prompt_sha256 == prompt.fingerprint
    assert VectorFolder(MODEL).task_path(name).stat().st_size <= 4096
    assert (task.license, task.training["source"]) == (recipe.license, recipe.source)
    assert task.chat is not None
    assert task.reference_example


@pytest.mark.parametrize("name", RECIPES)
def test_a_task_is_above_the_model_told_what_to_do(tasks: dict[str, TaskFile], name: str) -> None:
    others = baselines(tasks[name].metrics)
    writes = tasks[name].head_type == "generation"
    assert {"zero_shot", "three_shot"} | ({"lora"} if writes else set()) <= set(others)
    metric = "bleu" if writes else "accuracy"
    ours = tasks[name].metrics["test"]
    for method in ("zero_shot", "three_shot"):
        assert ours["examples"] == others[method]["test"]["examples"]
        assert ours[metric] > others[method]["test"][metric], method


def test_the_card_has_the_figures_of_the_files(tasks: dict[str, TaskFile]) -> None:
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells for cells in (re.split(r" *\| *", line) for line in card.splitlines()) if len(cells) > 5}
    assert rows["task"][3:7] == ["ours", "zero shot", "three shot", "LoRA"]
    for name, task in tasks.items():
        others = [baselines(task.metrics).get(method, {}) for method in ("zero_shot", "three_shot", "lora")]
        assert rows[name][3:7] == [figures(part.get("test")) for part in (task.metrics, *others)]


def test_the_demonstration_asks_tasks_that_are_shipped(tasks: dict[str, TaskFile]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\ndemo-generate:")[2].partition("\n\n")[0]
    asked = re.findall(r"--task (\w+)", recipe)
    assert {"nl2bash", "e2e_clean", "squad_qg"} <= set(asked) <= set(tasks)
