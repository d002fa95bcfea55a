"""What a prompt's length and layout cost, beside the accuracy that `accuracy.py` found for them.

python benchmarks/prompt_length.py --data ../shared/data --plot docs/prompt-length.svg

Requests run through exported graphs, training steps in PyTorch; all ways take turns in one run.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import torch
import typer
from common import timed
from rich.console import Console
from rich.table import Table
from training_step import first_rows, our_step

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.loading import open_model
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge_export.bundle import ExportPlan, export_bundle

LENGTHS = (5, 10, 20, 50, 100, 200)
BATCH = 32

#: The tasks that every length was trained on together, as `accuracy.py` names them.
TASKS = "sst2+trec+tweet_emotion"

#: A way to carry a prompt: where it enters and how it is read, by the name of its method in `accuracy.py`.
WAYS = {
    "every-layer-mpt-no-distillation": (Entry.EVERY_LAYER, Layout.PREFIX),
    "mpt-no-distillation": (Entry.FIRST_LAYER, Layout.PREFIX),
    "joint-mpt-no-distillation": (Entry.FIRST_LAYER, Layout.JOINT),
}

Way = tuple[str, int]
Calls = dict[Way, Callable[[], object]]


def main(
    data: Annotated[Path, typer.Option(help="Folder with sst2/train.jsonl.")],
    bundle: Annotated[Path, typer.Option(help="Bundle whose prompts enter every layer.")] = Path("models/minilm-l6"),
    results: Annotated[Path, typer.Option(help="What accuracy.py wrote.")] = Path(
        "benchmarks/results/accuracy/results.jsonl"
    ),
    plot: Annotated[Path | None, typer.Option(help="Where to draw accuracy against latency.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a request's text.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed requests of each way; the median is reported.")] = 51,
    steps: Annotated[int, typer.Option(help="Timed training steps of each way.")] = 7,
    threads: int = 1,
) -> None:
    """Print a row a length and layout, and draw the plot."""
    torch.set_num_threads(threads)
    scores = accuracies(results)
    with tempfile.TemporaryDirectory() as name:
        calls, plain = requests(bundle, Path(name), tokens, threads)
        latency = timed(calls, repeats, warm=2)
    training = timed(training_steps(data), steps, warm=2)
    table = Table(
        "prompt", "layout", "l", "request (ms)", "times no prompt", "training step (ms)", "accuracy", box=None
    )
    for (method, length), seconds in latency.items():
        entry, layout = WAYS.get(method, ("none", ""))
        step, score = training.get((method, length)), scores.get((method, length))
        table.add_row(
            entry.replace("_", " "),
            layout,
            str(length),
            f"{1e3 * seconds:.2f}",
            f"{seconds / latency[plain]:.2f}",
            f"{1e3 * step:.0f}" if step else "",
            f"{100 * score:.1f}" if score else "",
        )
    Console(width=120).print(table)
    print(
        f"text of {tokens} tokens, batch {BATCH} in training, {threads} thread(s), medians; {platform.machine()}; "
        "accuracy: mean over tasks and seeds, test split"
    )
    if plot:
        draw(plot, latency, scores)


def accuracies(path: Path) -> dict[Way, float]:
    """Return the mean test score of each way over `TASKS` and seeds, at the budget of docs/results.md."""
    found: dict[Way, list[float]] = defaultdict(list)
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        budget = (line["rows"], line["epochs"], line["with"])
        if line["method"] in WAYS and budget == (1000, 5, TASKS):
            found[line["method"], line["length"]].append(line["score"])
    return {way: mean(scores) for way, scores in found.items()}


def requests(bundle: Path, folder: Path, tokens: int, threads: int) -> tuple[Calls, Way]:
    """Return a request of every way and of none, and the key of none. Weights and graph of the layouts are the same."""
    export_bundle(ExportPlan(load_encoder("minilm-l6"), [], folder / "first"))
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (1, tokens))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    opened = {
        Entry.EVERY_LAYER: _backbone(bundle, threads),
        Entry.FIRST_LAYER: _backbone(folder / "first", threads),
    }
    plain = ("none", 0)
    calls: Calls = {plain: lambda: opened[Entry.EVERY_LAYER].request(batch)}
    for name, (entry, layout) in WAYS.items():
        for length in LENGTHS:
            model = opened[entry]
            prompt = rng.standard_normal(model.prompt_shape(length)).astype(np.float32)
            if layout == Layout.JOINT:
                calls[name, length] = lambda m=model, p=prompt: m.joint_request(batch, p)  # type: ignore[misc]
            else:
                cache = model.encode_prompt(prompt)
                calls[name, length] = lambda m=model, c=cache: m.request(batch, c)  # type: ignore[misc]
    return calls, plain


def _backbone(folder: Path, threads: int) -> OnnxEncoder:
    model = open_model(Bundle.open(folder), threads=threads)
    assert isinstance(model, EncoderModel)
    return model.backbone


def training_steps(data: Path) -> Calls:
    """Return a training step of every way on the same batch of texts of mixed lengths."""
    texts, gold = first_rows(data, BATCH)
    rows = np.arange(BATCH)
    steps = {
        (name, length): our_step(texts, gold, length, entry, layout)[0]
        for name, (entry, layout) in WAYS.items()
        for length in LENGTHS
    }
    return {way: lambda step=step: step(rows) for way, step in steps.items()}  # type: ignore[misc]


def draw(path: Path, latency: Mapping[Way, float], scores: Mapping[Way, float]) -> None:
    """Draw accuracy against a request's milliseconds, a line a way and a point a length; a panel a layout."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "mpt-edge"  # the same drawing is the same file
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharey=True, width_ratios=(3, 2))
    for name, (entry, layout) in WAYS.items():
        axes = panels[(Layout.PREFIX, Layout.JOINT).index(layout)]
        ways = [(name, length) for length in LENGTHS if (name, length) in scores]
        x, y = [1e3 * latency[way] for way in ways], [100 * scores[way] for way in ways]
        axes.plot(x, y, marker="o", label=entry.replace("_", " "), color="C0" if entry == Entry.EVERY_LAYER else "C1")
        for number, at in enumerate(zip(x, y, strict=True)):
            # Short prompts lie close together, so their names take turns on both sides.
            side = (6, "left") if number % 2 == 0 else (-6, "right")
            place = {"textcoords": "offset points", "xytext": (side[0], -3), "ha": side[1]}
            axes.annotate(f"l = {ways[number][1]}", at, fontsize=8, **place)
    panels[0].set_ylabel("mean test accuracy (%)")
    for axes, layout in zip(panels, (Layout.PREFIX, Layout.JOINT), strict=True):
        axes.set_title(layout)
        axes.set_xlabel("request (ms)")
        axes.grid(visible=True, alpha=0.3)
        axes.margins(x=0.2)
        axes.legend(loc="center")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
