"""Two vectors a task beside other ways to have a model of a chat write: the same rows, budget and texts for each.

python benchmarks/writing.py models/recipes/smollm2-135m/*.toml --backbone MODEL.gguf --vectors FOLDER --data DATA

Each method is measured on the same sample of the test split. LoRA is trained by the trainer of our own
vectors, for as many examples. A recorded result is not measured again, so the table can be made in pieces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import read_results
from methods import LORA_LR, WholeModel, limited, unfreeze
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.utils.chat_template_utils import render_jinja_template

from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge.training.data.examples import TaskData, load_task
from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.multitask import scale
from mpt_edge.training.objectives.generative import ChoiceObjective, GenerationObjective, GenerativeObjective
from mpt_edge.training.objectives.table import make_objectives
from mpt_edge.training.objectives.text_metrics import bleu, rouge_l
from mpt_edge.training.settings import MixedPrecision, Settings
from mpt_edge.training.trainer import Progress, Trainer

#: Stands for the message in a rendered conversation.
_MESSAGE = "\u241fmessage\u241f"


@dataclass(frozen=True)
class Budget:
    """Rows, passes and sample of every method."""

    rows: int
    epochs: int
    texts: int


@dataclass(frozen=True)
class Run:
    """All that a method needs."""

    backbone: str
    vectors: Path | None
    budget: Budget
    folder: Path
    precision: MixedPrecision | None


def zero_shot(task: TaskData, run: Run) -> dict[str, float]:
    """Measure the model with the recipe's instruction alone."""
    return measure(_objective(_open(run.backbone), task), None, run.budget)


def three_shot(task: TaskData, run: Run) -> dict[str, float]:
    """Measure the model with the instruction and three training examples as earlier turns of the chat."""
    backbone = _open(run.backbone)
    objective = _objective(backbone, task)
    rows = np.random.default_rng(0).permutation(len(task.train))[:3]
    shots = [(str(task.train.texts[row]), _answer(objective, int(row))) for row in rows]
    messages = [{"role": "system", "content": task.recipe.system}] if task.recipe.system else []
    for text, answer in [*shots, (_MESSAGE, None)]:
        messages.append({"role": "user", "content": text})
        messages += [] if answer is None else [{"role": "assistant", "content": answer}]
    assert backbone.chat is not None
    (chat,), _ = render_jinja_template(
        [messages], chat_template=backbone.chat.source, add_generation_prompt=True, **backbone.chat.tokens
    )
    template = chat.replace(_MESSAGE, "{text}")
    recipe = replace(task.recipe, template=template, system=None, message=None, max_length=backbone.max_length // 2)
    return measure(_objective(backbone, replace(task, recipe=recipe)), None, run.budget)


def lora(task: TaskData, run: Run) -> dict[str, float]:
    """Train and measure LoRA, r = 8 on queries and values, through PEFT."""
    torch.manual_seed(0)
    backbone = _open(run.backbone)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model = inject_adapter_in_model(config, backbone.model.model)
    trained = unfreeze(model, lambda name: "lora_" in name)
    objective = _objective(backbone, limited(task, run.budget.rows))
    settings = Settings(
        epochs=run.budget.epochs, max_tasks=0, tasks_per_step=1, batch_size=16, precision=run.precision,
        validation_examples=128,
    )  # fmt: skip
    started = time.monotonic()
    trainer = Trainer([objective], WholeModel(trained, LORA_LR), settings, run.folder / "lora" / task.recipe.name)
    trainer.train(_report)
    facts = {"seconds": round(time.monotonic() - started), "bytes": 2 * sum(each.numel() for each in trained.values())}
    return measure(objective, None, run.budget) | facts


def vectors(task: TaskData, run: Run) -> dict[str, float]:
    """Measure our task of the same name."""
    assert run.vectors is not None
    folder = VectorFolder(run.vectors)
    path = folder.task_path(task.recipe.name)
    if not path.is_file():
        raise InputError(f"{run.vectors} holds no task {task.recipe.name!r}; train it, or leave its recipe out.")
    file = folder.tasks()[task.recipe.name]
    shared = folder.prompts()[file.prompt or ""]
    values = [torch.from_numpy(each.astype(np.float32)) for each in (shared.values, file.u, file.v)]
    objective = _objective(_open(run.backbone), task, shared.placement)
    return measure(objective, scale(*values), run.budget) | {"bytes": path.stat().st_size}


METHODS: dict[str, Callable[[TaskData, Run], dict[str, float]]] = {
    "zero_shot": zero_shot,
    "three_shot": three_shot,
    "lora": lora,
    "vectors": vectors,
}

#: Entries of a result that task files record.
_RECORDED = ("bleu", "rouge_l", "accuracy", "loss", "examples")


@torch.no_grad()
def measure(objective: GenerativeObjective, prompt: Tensor | None, budget: Budget) -> dict[str, float]:
    """Return accuracy, or BLEU and ROUGE-L of greedy texts, on a sample of the test split, and the loss there."""
    assert objective.data.test is not None
    sample = objective.data.test.sample(budget.texts)
    loss = {"loss": round(objective.held_out_loss(prompt, sample), 4), "examples": len(sample)}
    if isinstance(objective, ChoiceObjective):
        return loss | {"accuracy": round(objective.score(prompt, sample), 4)}
    assert isinstance(objective, GenerationObjective)
    texts = objective.generate(prompt, sample.texts)
    return loss | {
        "bleu": round(bleu(texts, sample.references), 4),
        "rouge_l": round(rouge_l(texts, sample.references), 4),
    }


def main(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, each with a test split.")],
    backbone: Annotated[str, typer.Option(help="The model.")],
    data: Annotated[Path, typer.Option(help="Folder with the data sets.")],
    trained: Annotated[Path | None, typer.Option("--vectors", help="Bundle or run with our tasks.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help=f"Only these; of {', '.join(METHODS)}.")] = None,
    rows: Annotated[int, typer.Option(help="Maximum number of training examples a task.")] = 1000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 2,
    texts: Annotated[int, typer.Option(help="Test examples measured.")] = 300,
    precision: Annotated[MixedPrecision | None, typer.Option(help="Precision of training.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and results.jsonl.")] = Path(
        "benchmarks/results/writing"
    ),
    record: Annotated[bool, typer.Option("--record", help="Write the figures into our task files, for cards.")] = False,
    threads: int = 2,
) -> None:
    """Measure missing results, then print a row a method and task."""
    torch.set_num_threads(threads)
    budget = Budget(rows, epochs, texts)
    run = Run(backbone, trained, budget, output / "-".join(map(str, asdict(budget).values())), precision)
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    tasks = [load_task(load_recipe(path), data, test=True) for path in recipes]
    for task in tasks:
        for method in methods or list(METHODS):
            key = {"task": task.recipe.name, "method": method} | asdict(budget)
            if any(key.items() <= line.items() for line in read_results(results)):
                continue
            values = METHODS[method](task, run)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(key | values) + "\n")
            print(f"{task.recipe.name}, {method}: {values}", flush=True)
    lines = [line for line in read_results(results) if asdict(budget).items() <= line.items()]
    _show(lines)
    if record and trained is not None:
        _record(lines, trained)


def _show(lines: Sequence[dict[str, Any]]) -> None:
    columns = ["task", "method", "bleu", "rouge_l", "accuracy", "loss", "bytes", "seconds"]
    table = Table(*columns, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(str(line.get(name, "")) for name in columns))
    Console(width=120).print(table)


def _record(lines: Sequence[dict[str, Any]], trained: Path) -> None:
    """Write the figures of our own vectors as a task's test metrics, and the others as those of baselines."""
    folder = VectorFolder(trained)
    for name, file in folder.tasks().items():
        found = {
            line["method"]: {key: line[key] for key in _RECORDED if key in line}
            for line in lines
            if line["task"] == name
        }
        own = {"test": found.pop("vectors")} if "vectors" in found else {}
        others = {method: {"test": figures} for method, figures in found.items()}
        replace(file, metrics={**file.metrics, **own, **others}).save(folder.task_path(name))


def _open(backbone: str) -> GenerativeBackbone:
    model = open_backbone(backbone)
    if not isinstance(model, GenerativeBackbone):
        raise InputError(f"{backbone} is an encoder; pass a generative model with --backbone.")
    return model


def _objective(backbone: GenerativeBackbone, task: TaskData, placement: Placement | None = None) -> GenerativeObjective:
    (objective,) = make_objectives(backbone, [task], placement)
    assert isinstance(objective, GenerativeObjective)
    return objective


def _answer(objective: GenerativeObjective, row: int) -> str:
    """Return the text that a training row should get."""
    train = objective.data.train
    if isinstance(objective, ChoiceObjective):
        return objective.label_texts[int(train.labels[row])][0]
    return train.references[row][0]


def _report(progress: Progress) -> None:
    if progress.forecast is None and progress.step % 20 == 0:
        print(f"  step {progress.step}/{progress.steps}, loss {progress.loss['total']:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
