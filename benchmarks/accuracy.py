"""Multitask prompt tuning beside its alternatives: the same rows, budget and seeds for each.

python benchmarks/accuracy.py --data ../shared/data

A figure that is there already is not measured again, and a run that was killed goes on from its checkpoint, so the
table can be made in pieces: `--tasks`, `--methods` and `--seeds` take a part. With nothing left to measure it just
prints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import torch
import typer
from common import lines as recorded
from methods import METHODS, TOGETHER, Budget, limited
from rich.console import Console
from rich.table import Table

from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.data.rows import TaskData, load_task
from mpt_edge.training.hardware import Hardware
from mpt_edge.training.trainer import Progress

#: The shipped tasks, as the table has them.
TASKS = [
    "sst2",
    "trec",
    "tweet_emotion",
    "tweet_offensive",
    "tweet_sentiment",
    "snips",
    "banking77",
    "clinc150",
    "sms_spam",
]

#: The methods of the table; the others are parts of ours, for its ablation.
COMPARED = [
    "zero-shot",
    "probe",
    "prompt-tuning",
    "every-layer-prompt-tuning",
    "mpt",
    "mpt-no-distillation",
    "every-layer-mpt",
    "every-layer-mpt-no-distillation",
    "lora",
    "fine-tuning",
]

#: Methods that draw nothing: one seed says all.
SEEDLESS = ("zero-shot", "probe")


def main(
    data: Annotated[Path, typer.Option(help="Folder that the recipes' paths start from.")],
    tasks: Annotated[list[str] | None, typer.Option(help="Only these recipes.", show_default="the shipped")] = None,
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes, each with a test split.")] = Path(
        "models/recipes/minilm-l6"
    ),
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and results.jsonl.")] = Path(
        "benchmarks/results/accuracy"
    ),
    methods: Annotated[list[str] | None, typer.Option(help=f"Only these; of {', '.join(METHODS)}.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0 to this number less one.")] = 3,
    rows: Annotated[int, typer.Option(help="Most training rows a task.")] = 1000,
    epochs: int = 5,
    length: Annotated[int, typer.Option("--length", "-l", help="Rows of a prompt.")] = 100,
    threads: int = 2,
) -> None:
    """Measure what is missing, then print the table: mean and deviation over seeds, in percent."""
    torch.set_num_threads(threads)
    paths = [recipes / f"{name}.toml" for name in tasks or TASKS]
    loaded = [limited(load_task(load_recipe(path), data, test=True), rows) for path in paths]
    chosen = methods or COMPARED
    for name in chosen:
        if name not in METHODS:
            raise typer.BadParameter(f"no method {name!r}; choose from {', '.join(METHODS)}.")
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    budget = {"rows": rows, "epochs": epochs, "length": length}
    for seed in range(seeds):
        for name in chosen:
            if seed == 0 or name not in SEEDLESS:
                measure(name, loaded, seed, budget, results)
    show(results, [task.recipe.name for task in loaded], budget)


def measure(name: str, tasks: Sequence[TaskData], seed: int, budget: dict[str, int], results: Path) -> None:
    """Run one method on the tasks whose figures are missing, and append them."""
    group = "+".join(sorted(task.recipe.name for task in tasks)) if name in TOGETHER else ""
    key = {"method": name, "seed": seed, "with": group} | budget
    there = {line["task"] for line in recorded(results) if all(line.get(k) == v for k, v in key.items())}
    missing = [task for task in tasks if task.recipe.name not in there]
    if not missing:
        return
    parts = [tasks] if name in TOGETHER else [[task] for task in missing]
    for part in parts:
        started = time.monotonic()
        place = "-".join([name, str(seed), *(str(value) for value in budget.values())])
        given = Budget(budget["rows"], budget["epochs"], budget["length"], seed, results.parent / place)
        found = METHODS[name](part, given, _report)
        seconds = round(time.monotonic() - started, 1)
        facts = {"seconds": seconds, "device": Hardware().device.type}  # where trainings run
        with results.open("a", encoding="utf-8") as file:
            for task, score in found.items():
                file.write(json.dumps(key | {"task": task, "score": score} | facts) + "\n")
        print(f"{name} (seed {seed}): " + ", ".join(f"{task} {100 * value:.1f}" for task, value in found.items()))


def show(results: Path, tasks: Sequence[str], budget: dict[str, int]) -> None:
    """Print a row a method and a column a task."""
    table = Table("method", *tasks, "mean", box=None, pad_edge=False)
    lines = [line for line in recorded(results) if all(line[key] == value for key, value in budget.items())]
    for name in METHODS:
        group = "+".join(sorted(tasks)) if name in TOGETHER else ""
        own = [line for line in lines if line["method"] == name and line["with"] == group]
        figures = {task: [100 * line["score"] for line in own if line["task"] == task] for task in tasks}
        if all(figures.values()):
            average = f"{mean(mean(values) for values in figures.values()):.1f}"
            table.add_row(name, *(_figure(values) for values in figures.values()), average)
    Console(width=200).print(table)
    print(f"each task's metric on its test split, times 100; {budget}")


def _figure(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _report(progress: Progress) -> None:
    if progress.step % 50 == 0:
        print(
            f"  {progress.stage}: step {progress.step}/{progress.steps}, loss {progress.loss['total']:.3f}", flush=True
        )


if __name__ == "__main__":
    typer.run(main)
