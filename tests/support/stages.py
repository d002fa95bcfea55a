"""Small tasks in files, and training runs that nobody watches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.model import Model
from mpt_edge.inference.text import Encoded, TextEncoder
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.plan import NewPrompt
from mpt_edge.training.settings import Settings
from mpt_edge.training.trainer import Progress

SETTINGS = Settings(epochs=2, batch_size=8, tasks_per_step=2, max_tasks=0, prompt_lr=0.02, task_lr=0.05, seed=3)
LENGTH = 5
SHARED = NewPrompt(name="shared", length=LENGTH, position=PromptPosition.FIRST_LAYER)
THINGS = ("film", "movie", "ball", "game", "vote", "law")


@dataclass(frozen=True)
class Stages:
    """A source run of two tasks, and a target run of pairs that starts from one of them."""

    data: Path
    recipes: dict[str, Recipe]
    source: Path
    source_tasks: list[TaskFile]
    target: Path
    target_tasks: list[TaskFile]
    shared: SharedPrompt


def answers_as_trained(model: Model, task: TaskFile) -> bool:
    """Check that a bundle gives a task's reference example the answer that training measured."""
    example = task.reference_example
    text = example["text"]
    answer = model.task(task.name)(tuple(text) if isinstance(text, list | tuple) else text)
    assert isinstance(answer, Prediction)
    assert (answer.label, answer.score) == (example["label"], pytest.approx(example["score"], abs=1e-4))
    return True


def record_fits(monkeypatch: pytest.MonkeyPatch) -> list[Encoded]:
    """Return a list that collects the rows which texts are fitted into."""
    rows: list[Encoded] = []
    fit = TextEncoder.fit

    def recorded(*args: Any, **options: Any) -> Encoded:
        rows.append(fit(*args, **options))
        return rows[-1]

    monkeypatch.setattr(TextEncoder, "fit", recorded)
    return rows


def silent(_: Progress) -> None:
    """Observe nothing."""


def write_task(folder: Path, name: str, words: dict[str, str], *, pair: bool = False) -> Recipe:
    (folder / name).mkdir()
    for split, rows in (("train", 24), ("validation", 8), ("test", 6)):
        lines = []
        for i in range(rows):
            label = list(words)[i % len(words)]
            row = {"text": f"a {words[label]} {THINGS[i % len(THINGS)]}", "label": label}
            lines.append(json.dumps(row | ({"text_pair": f"the {THINGS[i % 5]}"} if pair else {})))
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines))
    paths = {split: f"{name}/{split}.jsonl" for split in ("train", "validation", "test")}
    return Recipe(
        name,
        **paths,
        inputs=Inputs.PAIR if pair else Inputs.TEXT,
        max_length=16,
        license="CC0-1.0",
        source="x",
        version=3,
    )


def write_text_tasks(folder: Path) -> list[Recipe]:
    """Write a task whose target is always the same, and one of two labels."""
    things = ["cat", "dog", "ball", "park", "tree", "boy"]
    rows = [{"text": f"The {thing}", "target": "was very happy."} for thing in things]
    (folder / "happy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"text": f"{name} saw a {thing}.", "label": name} for thing in things for name in ("Tom", "Lily")]
    (folder / "who.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = {"template": "{text}\n", "max_length": 32}
    generation = {"head_type": "generation", "metric": "exact_match", "max_target_length": 8}
    return [
        Recipe("happy", "happy.jsonl", "happy.jsonl", "happy.jsonl", **generation, **common),
        Recipe("who", "who.jsonl", "who.jsonl", labels={"Tom": ("He was Tom.",), "Lily": ("She was Lily.",)}, **common),
    ]
