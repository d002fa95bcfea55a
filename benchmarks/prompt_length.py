"""Cost of a prompt's length and placement, beside the accuracy that `accuracy.py` measured.

python benchmarks/prompt_length.py --data DATA --plot docs/prompt-length.svg

Requests run through exported graphs, training steps in PyTorch. All variants take turns in one run.
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
from training_step import first_examples, our_step

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.loading import open_model
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge_export.bundle import ExportPlan, export_bundle

LENGTHS = (5, 10, 20, 50, 100, 200)
BATCH = 32

#: Tasks that every length was trained on together, by their name in results.jsonl.
TASKS = "sst2+trec+tweet_emotion"

#: Placements by the name of their method in `accuracy.py`.
PLACEMENTS = {
    "every-layer-mpt-no-distillation": Placement(Layout.PREFIX, PromptPosition.ALL_LAYERS),
    "mpt-no-distillation": Placement(),
    "joint-mpt-no-distillation": Placement(Layout.JOINT),
}

#: A method's name and a prompt length.
Variant = tuple[str, int]
Calls = dict[Variant, Callable[[], object]]


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets.")],
    bundle: Annotated[Path, typer.Option(help="Bundle whose prompts enter all layers.")] = Path("models/minilm-l6"),
    results: Annotated[Path, typer.Option(help="Results of accuracy.py.")] = Path(
        "benchmarks/results/accuracy/results.jsonl"
    ),
    plot: Annotated[Path | None, typer.Option(help="File for a plot of accuracy against latency.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a request's text.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed requests of each variant; the median is reported.")] = 51,
    steps: Annotated[int, typer.Option(help="Timed training steps of each variant.")] = 7,
    threads: int = 1,
) -> None:
    """Print a row a length and placement, and draw the plot."""
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
        placement = PLACEMENTS.get(method)
        step, score = training.get((method, length)), scores.get((method, length))
        table.add_row(
            placement.position.replace("_", " ") if placement else "none",
            placement.layout if placement else "",
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


def accuracies(path: Path) -> dict[Variant, float]:
    """Return the mean test score of each variant over `TASKS` and seeds, at the budget of docs/results.md."""
    recorded: dict[Variant, list[float]] = defaultdict(list)
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        budget = (line["rows"], line["epochs"], line["with"])
        if line["method"] in PLACEMENTS and budget == (1000, 5, TASKS):
            recorded[line["method"], line["length"]].append(line["score"])
    return {variant: mean(scores) for variant, scores in recorded.items()}


def requests(bundle: Path, folder: Path, tokens: int, threads: int) -> tuple[Calls, Variant]:
    """Return a request of every variant and one without a prompt, and the key of the latter.

    Both layouts have the same graph and weights.
    """
    export_bundle(ExportPlan(load_encoder("minilm-l6"), [], folder / "first"))
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (1, tokens))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    opened = {
        PromptPosition.ALL_LAYERS: _backbone(bundle, threads),
        PromptPosition.FIRST_LAYER: _backbone(folder / "first", threads),
    }
    plain = ("none", 0)
    calls: Calls = {plain: lambda: opened[PromptPosition.ALL_LAYERS].request(batch)}
    for name, placement in PLACEMENTS.items():
        for length in LENGTHS:
            model = opened[placement.position]
            prompt = rng.standard_normal(model.prompt_shape(length)).astype(np.float32)
            if placement.is_joint:
                calls[name, length] = lambda m=model, p=prompt: m.joint_request(batch, p)  # type: ignore[misc]
            else:
                cache = model.encode_prompt(prompt)
                calls[name, length] = lambda m=model, c=cache: m.request(batch, c)  # type: ignore[misc]
    return calls, plain


def _backbone(folder: Path, threads: int) -> OnnxEncoder:
    model = open_model(Bundle.open(folder), options=SessionOptions(threads=threads))
    assert isinstance(model, EncoderModel)
    return model.backbone


def training_steps(data: Path) -> Calls:
    """Return a training step of every variant on the same batch of texts of mixed lengths."""
    texts, target = first_examples(data, BATCH)
    rows = np.arange(BATCH)
    steps = {
        (name, length): our_step(texts, target, length, placement)[0]
        for name, placement in PLACEMENTS.items()
        for length in LENGTHS
    }
    return {variant: lambda step=step: step(rows) for variant, step in steps.items()}  # type: ignore[misc]


def draw(path: Path, latency: Mapping[Variant, float], scores: Mapping[Variant, float]) -> None:
    """Draw accuracy against a request's milliseconds: a panel a layout, a line a placement, a point a length."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "mpt-edge"  # the same drawing is the same file
    figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharey=True, width_ratios=(3, 2))
    for name, placement in PLACEMENTS.items():
        axes = panels[list(Layout).index(placement.layout)]
        variants = [(name, length) for length in LENGTHS if (name, length) in scores]
        x, y = [1e3 * latency[each] for each in variants], [100 * scores[each] for each in variants]
        color = "C0" if placement.position is PromptPosition.ALL_LAYERS else "C1"
        axes.plot(x, y, marker="o", label=placement.position.replace("_", " "), color=color)
        for number, at in enumerate(zip(x, y, strict=True)):
            # Points of short prompts are close together, so their labels take turns on both sides.
            side = (6, "left") if number % 2 == 0 else (-6, "right")
            offset = {"textcoords": "offset points", "xytext": (side[0], -3), "ha": side[1]}
            axes.annotate(f"l = {variants[number][1]}", at, fontsize=8, **offset)
    panels[0].set_ylabel("mean test accuracy (%)")
    for axes, layout in zip(panels, Layout, strict=True):
        axes.set_title(layout)
        axes.set_xlabel("request (ms)")
        axes.grid(visible=True, alpha=0.3)
        axes.margins(x=0.2)
        axes.legend(loc="center")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
