"""The two stages that users run: a shared prompt over many tasks, then a further task's vectors.

Both leave the same folder behind: ``prompts/<name>.safetensors`` and ``tasks/<task>.safetensors``,
which `mpt-edge export` bakes into a bundle and `mpt-edge tasks install` adds to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.prompts import SharedPrompt
from mpt_edge.taskfile import TaskFile
from mpt_edge.training.backbones import Backbone
from mpt_edge.training.data import Rows, TaskData, load_task
from mpt_edge.training.metrics import calibrated_scale, classification_metrics, softmax
from mpt_edge.training.multitask import MultitaskPrompt, sampled_vocabulary
from mpt_edge.training.probe import probe
from mpt_edge.training.recipes import Recipe
from mpt_edge.training.similarity import similarities, typical_examples
from mpt_edge.training.trainer import Progress, Settings, Trainer


@dataclass(frozen=True)
class Plan:
    """What a stage works on.

    Attributes:
        recipes: the tasks.
        data: folder that the recipes' paths start from.
        output: folder for vectors, checkpoint and log.
        settings: rates, sizes, seed.
        test: whether to measure the test split, once, at the end.
    """

    recipes: Sequence[Recipe]
    data: Path
    output: Path
    settings: Settings
    test: bool = False


def train_source(
    backbone: Backbone, plan: Plan, name: str, length: int, observe: Callable[[Progress], None]
) -> list[TaskFile]:
    """Learn a shared prompt of ``length`` rows together with every task's vectors.

    Returns:
        The tasks written, with their figures.

    Raises:
        InputError: unusable recipes, data or options.
        TrainingError: the loss became NaN.
    """
    if length < 1:
        raise InputError("a prompt needs at least one row; pass --length 1 or more.")
    tasks = _load(plan)
    start = sampled_vocabulary(backbone, length, plan.settings.seed)
    trainer = _trainer(backbone, plan, tasks, MultitaskPrompt(start, len(tasks)))
    trainer.train(observe)
    trainer.prompt.round_to_half()
    shared = SharedPrompt(
        name=name,
        values=trainer.prompt.shared.detach().numpy().astype(np.float16),
        layout="prefix",
        backbone=backbone.fingerprint,
        training={"stage": "source", "tasks": [r.name for r in plan.recipes], **asdict(plan.settings)},
        licence="; ".join(sorted({r.licence for r in plan.recipes if r.licence})),
    )
    shared.save(plan.output / "prompts" / f"{name}.safetensors")
    return _write_tasks(trainer, plan, shared)


def train_target(
    backbone: Backbone, plan: Plan, shared: SharedPrompt, start: TaskFile | None, observe: Callable[[Progress], None]
) -> list[TaskFile]:
    """Learn the vectors of further tasks with the shared prompt frozen.

    Args:
        backbone: the model that the shared prompt was trained on.
        plan: the tasks; its prompt rate is ignored.
        shared: the frozen shared prompt.
        start: a task whose vectors are the starting point, or None for ones.
        observe: called after every step.

    Raises:
        MismatchError: the shared prompt was trained on another backbone.
    """
    if shared.backbone != backbone.fingerprint:
        raise MismatchError(
            f"the shared prompt {shared.name!r} was trained on another backbone than {backbone.id}; "
            "pass the backbone it was made for with --backbone."
        )
    if start is not None and start.prompt_sha256 != shared.fingerprint:
        raise MismatchError(f"the task {start.name!r} scales another shared prompt; start from one of {shared.name!r}.")
    plan = replace(plan, settings=replace(plan.settings, prompt_rate=0.0))
    tasks = _load(plan)
    prompt = MultitaskPrompt(torch.from_numpy(shared.values.astype(np.float32)), len(tasks))
    if start is not None:
        with torch.no_grad():
            for u, v in zip(prompt.u, prompt.v, strict=True):
                u.copy_(torch.from_numpy(start.u.astype(np.float32)))
                v.copy_(torch.from_numpy(start.v.astype(np.float32)))
    trainer = _trainer(backbone, plan, tasks, prompt)
    trainer.train(observe)
    trainer.prompt.round_to_half()
    shared.save(plan.output / "prompts" / f"{shared.name}.safetensors")
    return _write_tasks(trainer, plan, shared)


def add_probe(backbone: Backbone, plan: Plan) -> list[TaskFile]:
    """Fit the probe for tasks that a stage has written, and record its figures in their files.

    Raises:
        CorruptFileError: a task is not in the output folder yet.
    """
    found = []
    for recipe in plan.recipes:
        path = plan.output / "tasks" / f"{recipe.name}.safetensors"
        task = TaskFile.load(path)
        figures = probe(backbone, load_task(recipe, plan.data, test=plan.test))
        task = replace(task, metrics={**task.metrics, "probe": figures})
        task.save(path)
        found.append(task)
    return found


def label_texts(backbone: Backbone, data: TaskData) -> list[list[str]]:
    """Return each label's texts: the recipe's (or the label itself) and its typical examples."""
    texts = [list(data.recipe.labels.get(label, (label.replace("_", " "),))) for label in data.labels]
    count = data.recipe.label_examples
    if count:
        examples = typical_examples(backbone, data.train, len(data.labels), count)
        texts = [own + [t for t in more if isinstance(t, str)] for own, more in zip(texts, examples, strict=True)]
    return texts


def _load(plan: Plan) -> list[TaskData]:
    names = [recipe.name for recipe in plan.recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two recipes are named {twice!r}; give each task its own name.")
    return [load_task(recipe, plan.data, test=plan.test) for recipe in plan.recipes]


def _trainer(backbone: Backbone, plan: Plan, tasks: list[TaskData], prompt: MultitaskPrompt) -> Trainer:
    texts = [label_texts(backbone, data) for data in tasks]
    return Trainer(backbone, tasks, texts, prompt, plan.settings, plan.output)


def _write_tasks(trainer: Trainer, plan: Plan, shared: SharedPrompt) -> list[TaskFile]:
    written = []
    for index, data in enumerate(trainer.tasks):
        task = _task_file(trainer, plan, shared, index)
        task.save(plan.output / "tasks" / f"{data.recipe.name}.safetensors")
        written.append(task)
    return written


def _task_file(trainer: Trainer, plan: Plan, shared: SharedPrompt, index: int) -> TaskFile:
    """Measure one task with its rounded vectors and describe it completely."""
    data, recipe, backbone = trainer.tasks[index], trainer.tasks[index].recipe, trainer.backbone
    found = _similarities(trainer, index, data.validation)
    scale = calibrated_scale(found, data.validation)
    metrics: dict[str, Any] = {"validation": classification_metrics(found.argmax(1), data.validation)}
    if data.test is not None:
        metrics["test"] = classification_metrics(_similarities(trainer, index, data.test).argmax(1), data.test)
    scores = softmax(found[:1] * scale)[0]
    first = data.validation.texts[0]
    return TaskFile(
        name=recipe.name,
        kind=recipe.kind,
        labels=data.labels,
        label_texts=tuple(map(tuple, trainer.label_texts[index])),
        u=trainer.prompt.u[index].detach().numpy().astype(np.float16),
        v=trainer.prompt.v[index].detach().numpy().astype(np.float16),
        prompt=shared.name,
        prompt_sha256=shared.fingerprint,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        max_length=trainer.max_lengths[index],
        scale=scale,
        golden={"text": first, "label": data.labels[int(scores.argmax())], "score": round(float(scores.max()), 5)},
        metrics=metrics,
        training={
            "stage": "source" if plan.settings.prompt_rate else "target",
            "rows": len(data.train),
            "seed": plan.settings.seed,
            "source": recipe.source,
        },
        licence=recipe.licence,
    )


def _similarities(trainer: Trainer, index: int, rows: Rows) -> np.ndarray[Any, np.dtype[np.float32]]:
    encoded = trainer.encode(index, rows.texts)
    with torch.no_grad():
        return similarities(trainer.backbone, trainer.prompt(index), encoded, trainer.labels[index])


def replace_settings(plan: Plan, **values: Any) -> Plan:
    """Return the plan with other settings; the names are those of `Settings`."""
    return replace(plan, settings=replace(plan.settings, **values))
