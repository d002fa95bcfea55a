"""Target stage: further tasks on a finished shared prompt.

It leaves the same files as the source stage, with the shared prompt beside the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.initialization import initialize_vectors
from mpt_edge.training.label_vectors import start_label_vectors
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.plan import Origin, Plan, check_file_size, check_prompt_name, check_room
from mpt_edge.training.results import save_shared_prompt, write_tasks
from mpt_edge.training.settings import Trained
from mpt_edge.training.trainer import Observer, Trainer


def train_target(backbone: AnyBackbone, plan: Plan, origin: Origin, observe: Observer) -> list[TaskFile]:
    """Train further tasks on a shared prompt.

    Args:
        backbone: the model that the shared prompt was trained on.
        plan: the tasks. Its prompt learning rate is that of a task's or group's own copy of the prompt.
        origin: the shared prompt, the initialization, and the values to train.
        observe: called after every step.

    Returns:
        The tasks written, with their metrics.

    Raises:
        InputError: unusable recipes, data or options.
        MismatchError: the shared prompt was trained on another backbone.
        TrainingError: the loss became NaN.
    """
    shared, is_group = origin.shared, origin.trained is Trained.GROUP
    check_prompt_name(origin.name if is_group else shared.name)
    if shared.backbone != backbone.fingerprint:
        raise MismatchError(
            f"the shared prompt {shared.name!r} was trained on another backbone than {backbone.id}; "
            "pass the backbone it was made for with --backbone."
        )
    if origin.trained is Trained.VECTORS:
        plan = replace(plan, settings=replace(plan.settings, prompt_lr=0.0))
    elif not plan.settings.prompt_lr:
        raise InputError(f"--train {origin.trained.value} changes the prompt; pass a --prompt-lr above 0.")
    objectives = plan.objectives(backbone, shared.placement)
    for objective in objectives:
        check_room(objective, shared.length, shared.placement)
    check_file_size(shared.values.nbytes)
    objectives = [_taught(objective, origin) for objective in objectives]
    if is_group:
        return _train_group(plan, origin, objectives, observe)
    tasks = [task for objective in objectives for task in _train_alone(plan, origin, objective, observe)]
    VectorFolder(plan.output).save(shared)
    return tasks


def _train_alone(plan: Plan, origin: Origin, objective: TaskObjective, observe: Observer) -> list[TaskFile]:
    """Train one target: its vectors, and its copy of the prompt where that is asked for."""
    prompts, (facts,) = _train(plan, origin, [objective], objective.recipe.name, observe)
    own_prompt = origin.trained is Trained.PROMPT
    facts = plan.facts("target") | facts
    return write_tasks([objective], prompts, origin.shared, plan.output, [facts], own_prompt=own_prompt)


def _train_group(plan: Plan, origin: Origin, objectives: Sequence[TaskObjective], observe: Observer) -> list[TaskFile]:
    """Train several targets on one new shared prompt."""
    prompts, details = _train(plan, origin, objectives, origin.name, observe)
    facts = {"stage": "group", "tasks": [r.name for r in plan.recipes], "from": origin.shared.fingerprint}
    shared = save_shared_prompt(plan.output, origin.name, prompts, objectives, facts | asdict(plan.settings))
    training = [plan.facts("group") | detail for detail in details]
    return write_tasks(objectives, prompts, shared, plan.output, training)


def _train(
    plan: Plan, origin: Origin, objectives: Sequence[TaskObjective], name: str, observe: Observer
) -> tuple[MultitaskPrompt, list[dict[str, Any]]]:
    """Run one training; return the finished prompts, and each task's initialization and distillation."""
    values = torch.from_numpy(origin.shared.values.astype(np.float32))
    prompts = MultitaskPrompt(values, len(objectives))
    names = {recipe.name for recipe in plan.recipes}
    details: list[dict[str, Any]] = []
    for index, objective in enumerate(objectives):
        init, (u, v) = initialize_vectors(origin.init, origin.folder, origin.shared, objective, names)
        prompts.set_vectors(index, u, v)
        details.append({"init": init})
        if origin.teaching is not None:
            details[-1] |= {"distillation": asdict(origin.teaching.distillation)}
    start_label_vectors(objectives, prompts)
    folder: Path = plan.output / "runs" / name
    Trainer(objectives, prompts, plan.settings, folder, stage=name).train(observe)
    prompts.finish()
    return prompts, details


def _taught(objective: TaskObjective, origin: Origin) -> TaskObjective:
    """Return the objective with its teacher, where the origin has teachers."""
    if origin.teaching is None:
        return objective
    distillation = origin.teaching.of(objective)
    teacher = distillation.teacher
    check_room(objective, len(teacher.prompt), teacher.placement)
    return objective.distilled(distillation)
