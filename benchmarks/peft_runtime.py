"""One adapter in PEFT and here: bytes, cold start, load, switch and request.

python benchmarks/peft_runtime.py

PEFT makes a multitask adapter with a classifier for all-MiniLM-L6-v2, and `mpt-edge import peft`
imports it. Values are random, which changes no time. The task in the prefix layout has the form of a
task distilled from one of them. Answers are compared before any timing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import timed
from peft import MultitaskPromptTuningConfig, PeftModel, TaskType, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.inference.heads import Similarity
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge_export import ExportPlan, export_bundle
from mpt_edge_export.peft import ImportOptions, import_adapter, read_adapter

TEXT = "a gorgeous, witty, seductive movie that never once loses sight of its people"

COLD_PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads({threads})
base = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels=2)
model = PeftModel.from_pretrained(base, {adapter!r}).eval()
inputs = AutoTokenizer.from_pretrained({base!r})([{text!r}], return_tensors="pt")
with torch.no_grad():
    model(**inputs, task_ids=torch.tensor([0]))
"""

COLD_OURS = """
import mpt_edge
mpt_edge.load({bundle!r}, threads={threads}).task("task-0")([{text!r}])
"""


def main(
    tasks: Annotated[int, typer.Option(help="Tasks of the adapter.")] = 8,
    prompt_length: Annotated[int, typer.Option("--prompt-length", "-l", help="Virtual tokens.")] = 100,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; they take turns.")] = 21,
    threads: int = 2,
) -> None:
    """Print medians, PEFT beside this runtime."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        rows = compare(Path(name), tasks, prompt_length, repeats, threads)
    table = Table("", "PEFT", "joint layout, the same answers", "prefix layout", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    print(
        f"{tasks} tasks, l = {prompt_length}, {len(TEXT.split())} words of text, float32, {threads} threads, "
        f"medians of {repeats}; {platform.machine()}, torch {torch.__version__}"
    )


def compare(root: Path, tasks: int, length: int, repeats: int, threads: int) -> list[tuple[str, str, str, str]]:
    """Return the table's rows."""
    adapter, bundle = make_bundle(root, tasks, length)
    base = str(load_encoder("minilm-l6").folder)

    def load_peft() -> PeftModel:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        return PeftModel.from_pretrained(model, adapter).eval()

    theirs, ours = load_peft(), mpt_edge.load(bundle, threads=threads)
    assert isinstance(ours, mpt_edge.Model)
    tokenizer = AutoTokenizer.from_pretrained(base)

    def peft_request(task: int = 0) -> torch.Tensor:
        with torch.no_grad():
            inputs = tokenizer([TEXT], return_tensors="pt")
            logits: torch.Tensor = theirs(**inputs, task_ids=torch.tensor([task])).logits
            return logits

    joint, fast = ours.task("task-0"), ours.task("fast")
    assert np.allclose(joint.scores([TEXT])[0], peft_request().numpy()[0], atol=1e-4)
    theirs.load_adapter(str(adapter), "other")
    others = [ours.task(f"task-{i}").name for i in range(1, tasks)]
    turn = iter(range(10**9))
    request = timed({"peft": peft_request, "joint": lambda: joint(TEXT), "prefix": lambda: fast(TEXT)}, repeats)
    switch = timed(
        {
            "peft": lambda: theirs.set_adapter(("default", "other")[next(turn) % 2]),
            "ours": lambda: ours.task(others[next(turn) % len(others)]),
        },
        repeats,
    )
    values = {"base": base, "adapter": str(adapter), "bundle": str(bundle), "text": TEXT, "threads": threads}
    loads = timed({"peft": load_peft, "ours": lambda: mpt_edge.load(bundle, threads=threads)}, 5)
    cold = timed({"peft": lambda: fresh(COLD_PEFT, values), "ours": lambda: fresh(COLD_OURS, values)}, 5)
    sizes = [size(adapter / "adapter_model.safetensors"), size(bundle / "tasks/task-1.safetensors")]
    shared = size(bundle / "prompts/adapter.safetensors")
    every = sum(size(path) for path in (bundle / "tasks").glob("task-*")) + shared
    ms = {name: f"{1e3 * seconds:.1f}" for name, seconds in request.items()}
    return [
        ("all tasks (bytes)", f"{sizes[0]:,}", f"{every:,}", ""),
        ("one task more (bytes)", f"{sizes[0]:,} (the file anew)", f"{sizes[1]:,}", ""),
        ("process start to first answer (s)", f"{cold['peft']:.2f}", f"{cold['ours']:.2f}", ""),
        ("load (ms)", f"{1e3 * loads['peft']:.0f}", f"{1e3 * loads['ours']:.0f}", ""),
        ("switch (µs)", f"{1e6 * switch['peft']:.1f} (another adapter)", f"{1e6 * switch['ours']:.1f}", ""),
        ("request (ms)", ms["peft"], ms["joint"], ms["prefix"]),
    ]


def make_bundle(root: Path, tasks: int, length: int) -> tuple[Path, Path]:
    """Let PEFT make an adapter, import it, and export a bundle, with one of its tasks in the prefix layout too."""
    backbone = load_encoder("minilm-l6")
    base = AutoModelForSequenceClassification.from_pretrained(backbone.folder, num_labels=2)
    config = MultitaskPromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=length, num_tasks=tasks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, config)
        encoders: Any = model.prompt_encoder
        with torch.no_grad():
            for part in (encoders["default"].prefix_task_cols, encoders["default"].prefix_task_rows):
                part.normal_(1.0, 0.3)
        model.save_pretrained(str(root / "adapter"))
    names = {f"task-{i}": i for i in range(tasks)}
    imported = import_adapter(read_adapter(str(root / "adapter")), backbone, ImportOptions(tasks=names))
    imported.save(root / "vectors")
    assert imported.prompt is not None
    shared, first = imported.prompt, imported.tasks[0]
    placement = Placement(Layout.PREFIX, shared.placement.position)
    replace(
        first,
        name="fast",
        head_type=Similarity.name,
        label_texts=(("a bad film",), ("a good film",)),
        prompt=None,
        prompt_sha256=None,
        own_prompt=replace(shared, name="fast", placement=placement, head=None),
    ).save(root / "vectors/tasks/fast.safetensors")
    export_bundle(ExportPlan(backbone, [root / "vectors"], root / "bundle"))
    return root / "adapter", Bundle.open(root / "bundle").folder


def fresh(code: str, values: dict[str, object]) -> None:
    """Run code in a process of its own."""
    subprocess.run([sys.executable, "-c", code.format(**values)], check=True, capture_output=True)


def size(path: Path) -> int:
    """Return a file's bytes."""
    return path.stat().st_size


if __name__ == "__main__":
    typer.run(main)
