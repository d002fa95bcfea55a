"""Multitask prompt tuning beside its alternatives, with the same examples, budget and seeds for each.

python benchmarks/accuracy.py --data DATA

A recorded result is not measured again, and a run that was killed resumes from its checkpoint. So the
table can be made in pieces: `--tasks`, `--methods` and `--seeds` select a part. With nothing left to
measure it only prints.
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
from common import read_results
from methods import METHODS, TOGETHER, Budget, limited
from rich.console import Console
from rich.table import Table

from mpt_edge.training.data.examples import TaskData, load_task
from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.hardware import Hardware
from mpt_edge.training.trainer import Progress

#: The shipped tasks, in the order of the table.
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

#: Methods of the table; the others are variants of ours, for its ablation.
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

#: Methods without randomness, which need one seed.
SEEDLESS = ("zero-shot", "probe")


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets.")],
    tasks: Annotated[list[str] | None, typer.Option(help="Only these recipes.", show_default="the shipped")] = None,
    recipes: Annotated[Path, typer.Option(help="Folder with the recipes, each with a test split.")] = Path(
        "models/recipes/minilm-l6"
    ),
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and results.jsonl.")] = Path(
        "benchmarks/results/accuracy"
    ),
    methods: Annotated[list[str] | None, typer.Option(help=f"Only these; of {', '.join(METHODS)}.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
    examples: Annotated[int, typer.Option(help="Maximum number of training examples a task.")] = 1000,
    epochs: int = 5,
    prompt_length: Annotated[int, typer.Option("--prompt-length", "-l", help="Virtual tokens.")] = 100,
    threads: int = 2,
) -> None:
    """Measure missing results, then print the table: mean and standard deviation over seeds, in percent."""
    torch.set_num_threads(threads)
    paths = [recipes / f"{name}.toml" for name in tasks or TASKS]
    loaded = [limited(load_task(load_recipe(path), data, test=True), examples) for path in paths]
    chosen = methods or COMPARED
    for name in chosen:
        if name not in METHODS:
            raise typer.BadParameter(f"no method {name!r}; choose from {', '.join(METHODS)}.")
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    budget = {"rows": examples, "epochs": epochs, "length": prompt_length}  # keys of results.jsonl
    for seed in range(seeds):
        for name in chosen:
            if seed == 0 or name not in SEEDLESS:
                measure(name, loaded, seed, budget, results)
    show(results, [task.recipe.name for task in loaded], budget)


def measure(name: str, tasks: Sequence[TaskData], seed: int, budget: dict[str, int], results: Path) -> None:
    """Run one method on the tasks without a recorded result, and append the results."""
    group = "+".join(sorted(task.recipe.name for task in tasks)) if name in TOGETHER else ""
    key = {"method": name, "seed": seed, "with": group} | budget
    done = {line["task"] for line in read_results(results) if all(line.get(k) == v for k, v in key.items())}
    missing = [task for task in tasks if task.recipe.name not in done]
    if not missing:
        return
    parts = [tasks] if name in TOGETHER else [[task] for task in missing]
    for part in parts:
        started = time.monotonic()
        folder = results.parent / "-".join([name, str(seed), *map(str, budget.values())])
        scores = METHODS[name](part, Budget(budget["rows"], budget["epochs"], budget["length"], seed, folder), _report)
        seconds = round(time.monotonic() - started, 1)
        facts = {"seconds": seconds, "device": Hardware().device.type}  # of training
        with results.open("a", encoding="utf-8") as file:
            for task, score in scores.items():
                file.write(json.dumps(key | {"task": task, "score": score} | facts) + "\n")
        print(f"{name} (seed {seed}): " + ", ".join(f"{task} {100 * value:.1f}" for task, value in scores.items()))


def show(results: Path, tasks: Sequence[str], budget: dict[str, int]) -> None:
    """Print a row a method and a column a task."""
    table = Table("method", *tasks, "mean", box=None, pad_edge=False)
    lines = [line for line in read_results(results) if all(line[key] == value for key, value in budget.items())]
    for name in METHODS:
        group = "+".join(sorted(tasks)) if name in TOGETHER else ""
        own = [line for line in lines if line["method"] == name and line["with"] == group]
        values = {task: [100 * line["score"] for line in own if line["task"] == task] for task in tasks}
        if all(values.values()):
            average = f"{mean(map(mean, values.values())):.1f}"
            table.add_row(name, *map(_cell, values.values()), average)
    Console(width=200).print(table)
    print(f"each task's metric on its test split, times 100; {budget}")


def _cell(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _report(progress: Progress) -> None:
    if progress.forecast is None and progress.step % 50 == 0:
        print(
            f"  {progress.stage}: step {progress.step}/{progress.steps}, loss {progress.loss['total']:.3f}", flush=True
        )


if __name__ == "__main__":
    typer.run(main)
