"""Tokens a second: the exported graph with and without a prompt, beside transformers on the same model.

python benchmarks/generation.py ../shared/weights/tinystories-656k-llama ../shared/weights/tinystories-3m-gptneo

All write the same number of tokens greedily behind the same random text, in turn, on the same threads. transformers
gets prompt and text as embeddings, as PEFT feeds them, and its cache.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from mpt_edge.bundle import MODEL, Bundle
from mpt_edge.causal import OnnxCausal
from mpt_edge.text import Batch
from mpt_edge.training.generative import GenerativeBackbone, open_backbone
from mpt_edge_export import ExportPlan, export_bundle


def main(
    models: Annotated[list[Path], typer.Argument(help="Folders of decoder-only models.")],
    tokens: Annotated[int, typer.Option(help="Length of the text.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 64,
    length: Annotated[int, typer.Option("--length", "-l", help="Prompt rows.")] = 100,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; they take turns.")] = 9,
    threads: int = 2,
) -> None:
    """Print medians: time to the first token, and tokens a second over the whole text."""
    torch.set_num_threads(threads)
    table = Table("model", "", "first token (ms)", "tokens a second", "to transformers", box=None, pad_edge=False)
    for folder in models:
        found = measured(folder, tokens, new_tokens, length, repeats, threads)
        base = found["transformers, prompt"][1]
        for name, (first, rate) in found.items():
            table.add_row(folder.name, name, f"{first:.1f}", f"{rate:.0f}", f"{rate / base:.2f} x")
    Console(width=120).print(table)
    print(
        f"{tokens} tokens of text, {new_tokens} new ones, l = {length}, float32, {threads} threads, "
        f"medians of {repeats}; {platform.machine()}, torch {torch.__version__}"
    )


def measured(
    folder: Path, tokens: int, new_tokens: int, length: int, repeats: int, threads: int
) -> dict[str, tuple[float, float]]:
    """Return milliseconds to the first token and tokens a second of each way to run one model."""
    backbone = open_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone)
    with tempfile.TemporaryDirectory() as place:
        export_bundle(ExportPlan(backbone, [], Path(place) / "bundle"))
        bundle = Bundle.open(Path(place) / "bundle")
        graph = OnnxCausal(bundle.path(MODEL), bundle.manifest, threads=threads)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 1000, (1, tokens))
    prompt = (0.05 * rng.standard_normal((length, graph.width))).astype(np.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = torch.cat([torch.from_numpy(prompt), model.get_input_embeddings()(torch.from_numpy(ids))[0]])[None]
    cached = graph.encode_prompt(prompt)
    ways: dict[str, Callable[[int], object]] = {
        "mpt-edge, prompt": lambda count: ours(graph, ids, cached, count),
        "mpt-edge, no prompt": lambda count: ours(graph, ids, graph.no_past, count),
        "transformers, prompt": lambda count: theirs(model, rows, count),
        "transformers, no prompt": lambda count: theirs(model, rows[:, length:], count),
    }
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    wholes: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):  # the first round warms up
        for name, way in ways.items():
            for count, times in ((1, firsts), (new_tokens, wholes)):
                started = time.perf_counter()
                way(count)
                if number:
                    times[name].append(time.perf_counter() - started)
    return {name: (1e3 * median(firsts[name]), new_tokens / median(wholes[name])) for name in ways}


def ours(graph: OnnxCausal, ids: np.ndarray, cache: dict[str, np.ndarray], count: int) -> None:
    """Write ``count`` tokens with the exported graph; the prompt is cached, as it is once a task is selected."""
    state, logits = graph.open(Batch(ids, np.ones_like(ids), np.zeros_like(ids)), [cache])
    for _ in range(count - 1):
        token = logits.argmax(-1)[:, None]
        logits = state.extend(token, np.ones_like(token))[:, 0]


@torch.no_grad()
def theirs(model: torch.nn.Module, rows: torch.Tensor, count: int) -> None:
    """Write ``count`` tokens with transformers' own loop."""
    ones = torch.ones(rows.shape[:2], dtype=torch.long)
    model.generate(  # type: ignore[operator]
        inputs_embeds=rows,
        attention_mask=ones,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )


if __name__ == "__main__":
    typer.run(main)
