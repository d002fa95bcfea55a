"""Files of finished prompts and tasks, with their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.objective import TaskObjective


def save_shared_prompt(
    folder: Path,
    name: str,
    prompts: MultitaskPrompt,
    objectives: Sequence[TaskObjective],
    training: Mapping[str, Any],
) -> SharedPrompt:
    """Write a trained shared prompt to ``folder/prompts/<name>.safetensors``, in float16."""
    licenses = {objective.recipe.license for objective in objectives if objective.recipe.license}
    shared = SharedPrompt(
        name=name,
        values=_half(prompts.shared),
        placement=objectives[0].placement,
        backbone=objectives[0].backbone.fingerprint,
        training=dict(training),
        license="; ".join(sorted(licenses)) or None,
    )
    VectorFolder(folder).save(shared)
    return shared


def write_tasks(
    objectives: Sequence[TaskObjective],
    prompts: MultitaskPrompt,
    shared: SharedPrompt,
    folder: Path,
    training: Sequence[Mapping[str, Any]],
    *,
    own_prompt: bool = False,
) -> list[TaskFile]:
    """Measure every task with its rounded values, and write ``folder/tasks/<name>.safetensors``.

    Args:
        objectives: the tasks.
        prompts: their values, already rounded to float16.
        shared: the shared prompt that the tasks scale, or come from.
        folder: the output folder.
        training: provenance of each task.
        own_prompt: whether each task carries the prompt it was trained with.
    """
    tasks = []
    for index, (objective, stage) in enumerate(zip(objectives, training, strict=True)):
        source = {"source": objective.recipe.source} if objective.recipe.source else {}
        facts = {**stage, "examples": len(objective.data.train)} | source
        own = _own_prompt(objective, prompts, facts) if own_prompt else None
        task = _task_file(objective, prompts, index, shared, own, facts)
        VectorFolder(folder).save(task)
        tasks.append(task)
    return tasks


def _own_prompt(objective: TaskObjective, prompts: MultitaskPrompt, training: Mapping[str, Any]) -> SharedPrompt:
    return SharedPrompt(
        name=objective.recipe.name,
        values=_half(prompts.shared),
        placement=objective.placement,
        backbone=objective.backbone.fingerprint,
        training=training,
        license=objective.recipe.license,
    )


def _task_file(
    objective: TaskObjective,
    prompts: MultitaskPrompt,
    index: int,
    shared: SharedPrompt,
    own_prompt: SharedPrompt | None,
    training: Mapping[str, Any],
) -> TaskFile:
    recipe, backbone = objective.recipe, objective.backbone
    evaluation = objective.evaluate(prompts(index).detach())
    return TaskFile(
        name=recipe.name,
        head_type=objective.head_type.name,
        inputs=recipe.inputs,
        labels=objective.data.labels,
        label_texts=tuple(map(tuple, objective.file_label_texts)),
        label_vectors=prompts.label_vectors(index),
        u=_half(prompts.u[index]),
        v=_half(prompts.v[index]),
        prompt=shared.name,
        prompt_sha256=shared.fingerprint,
        own_prompt=own_prompt,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        template=objective.template,
        chat=objective.chat,
        truncation_side=recipe.truncation_side,
        max_length=objective.max_length,
        scale=evaluation.scale,
        threshold=evaluation.threshold,
        version=recipe.version,
        reference_example=evaluation.reference_example,
        metrics=evaluation.metrics,
        training=training,
        license=recipe.license,
        generation=evaluation.generation,
    )


def _half(values: Tensor) -> NDArray[np.float16]:
    return values.detach().cpu().numpy().astype(np.float16)
