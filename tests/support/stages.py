"""Small tasks in files, for training runs that nobody watches."""

from __future__ import annotations

import json
from pathlib import Path

from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.settings import Settings
from mpt_edge.training.trainer import Progress

SETTINGS = Settings(epochs=2, batch_size=8, tasks_per_step=2, max_tasks=0, prompt_lr=0.02, task_lr=0.05, seed=3)
LENGTH = 5
THINGS = ("film", "movie", "ball", "game", "vote", "law")


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
        kind="pair" if pair else "classification",
        max_length=16,
        license="CC0-1.0",
        source="x",
        version=3,
    )
