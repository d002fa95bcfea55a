"""Objectives of every family share a backbone: making and using one changes nothing of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mpt_edge.training.backbones.opening import AnyBackbone, open_backbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.data.rows import Rows, TaskData
from mpt_edge.training.objectives.families import new_objective
from mpt_edge.training.objectives.objective import Distillation, Teacher
from mpt_edge.training.schedule import TaskBatch
from tests.support import adapters

LABELS = {"film": ("film",), "game": ("game",)}
TEXTS = ["a witty film", "ball", "the great game vote", "dull movie"]


def task() -> TaskData:
    rows = Rows(TEXTS, [0, 1, 1, 0])
    return TaskData(Recipe("topic", "t", "v", labels=LABELS), tuple(LABELS), rows, rows, None)


def prompt(seed: int) -> torch.Tensor:
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(seed))


def losses(backbone: AnyBackbone, entry: str, teacher_entry: str | None = None) -> list[dict[str, float]]:
    """Return an objective's losses before and after one of the other entry is made and used."""
    taught = None if teacher_entry is None else Distillation([Teacher(prompt(1), entry=teacher_entry)])
    first = new_objective(backbone, [task()], [list(LABELS.values())], taught, entry=entry)
    batch = TaskBatch(0, np.arange(len(TEXTS)))

    def parts() -> dict[str, float]:
        with torch.no_grad():
            return first.loss(prompt(0), batch, np.random.default_rng(0)).parts()

    before = parts()
    others = {"first_layer": "inputs_embeds", "inputs_embeds": "first_layer"}
    second = new_objective(backbone, [task()], [list(LABELS.values())], entry=others[entry])
    made = parts()
    second.loss(prompt(0), batch, np.random.default_rng(0))
    second.measured(0, prompt(0))
    return [before, made, parts()]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "gpt_neo", "llama", "t5"])
def test_objectives_of_two_entries_on_one_backbone(kind: str, tmp_path: Path) -> None:
    backbone = open_backbone(str(adapters.save_base(kind, tmp_path / kind)))
    found = {entry: losses(backbone, entry) for entry in ("first_layer", "inputs_embeds")}
    for before, made, used in found.values():
        assert before == made == used
    # Where a prompt enters makes a difference, except where positions are relative.
    apart = abs(found["first_layer"][0]["task"] - found["inputs_embeds"][0]["task"])
    assert (apart > 1e-3) == (kind in ("bert", "gpt2", "gpt_neo"))


def test_a_teacher_of_another_entry_leaves_the_backbone_alone(tmp_path: Path) -> None:
    backbone = open_backbone(str(adapters.save_base("gpt2", tmp_path / "gpt2")))
    (before, made, used) = losses(backbone, "first_layer", "inputs_embeds")
    assert before == made == used
    assert before["logits"] > 1e-4
    assert before["task"] == losses(backbone, "first_layer")[0]["task"]
