"""Accuracy of a bundle's tasks on their test splits, through the runtime that apps use.

python benchmarks/shipped.py --data ../shared/data [--bundle models/minilm-l6] [--tasks sst2 --tasks trec]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import mpt_edge


def main(
    data: Annotated[Path, typer.Option(help="Folder with <task>/test.jsonl.")],
    bundle: Path = Path("models/minilm-l6"),
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks; repeatable.")] = None,
    precision: Annotated[str, typer.Option(help="float32 or int8, as the bundle has it.")] = "",
) -> None:
    """Print accuracy here beside the accuracy and the probe's figure that the task file states."""
    model = mpt_edge.load(bundle, precision=precision)
    print(f"{'task':18}{'here':>8}{'stated':>8}{'probe':>8}{'rows':>8}")
    for name in tasks or model.tasks:
        task = model.task(name)
        lines = (data / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        found = task([row["text"] for row in rows])
        right = sum(prediction.label == row["label"] for prediction, row in zip(found, rows, strict=True))
        stated, probe = task.file.metrics.get("test", {}), task.file.metrics.get("probe", {}).get("test", {})
        figures = [right / len(rows), stated.get("accuracy", float("nan")), probe.get("accuracy", float("nan"))]
        print(f"{name:18}" + "".join(f"{figure:8.4f}" for figure in figures) + f"{len(rows):8}")


if __name__ == "__main__":
    typer.run(main)
