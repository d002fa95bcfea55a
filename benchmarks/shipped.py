"""Accuracy of a bundle's tasks on their test splits, through the runtime that apps use.

python benchmarks/shipped.py --data DATA [--bundle models/minilm-l6] [--tasks sst2 --tasks trec]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import mpt_edge
from mpt_edge.formats.manifest import Precision


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets: <task>/test.jsonl.")],
    bundle: Path = Path("models/minilm-l6"),
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks; repeatable.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Weights of the graph.")] = None,
) -> None:
    """Print the measured accuracy beside the stated accuracies of task and linear probe."""
    model = mpt_edge.load(bundle, precision=precision)
    print(f"{'task':18}{'here':>8}{'stated':>8}{'probe':>8}{'examples':>10}")
    for name in tasks or model.tasks:
        task = model.task(name)
        lines = (data / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
        examples = [json.loads(line) for line in lines]
        answers = task([example["text"] for example in examples])
        right = sum(one.label == example["label"] for one, example in zip(answers, examples, strict=True))
        stated = task.file.metrics.get("test", {})
        probe = task.file.metrics.get("linear_probe", {}).get("test", {})
        metrics = [right / len(examples), stated.get("accuracy", float("nan")), probe.get("accuracy", float("nan"))]
        print(f"{name:18}" + "".join(f"{metric:8.4f}" for metric in metrics) + f"{len(examples):10}")


if __name__ == "__main__":
    typer.run(main)
