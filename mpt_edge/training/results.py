"""From trained vectors to files: rounding, measuring, and everything a task file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt_edge.errors import InputError
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES, SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.objective import TaskObjective

#: Room for what a prompt's file says beside its values.
_HEADER_BYTES = 64 << 10


def check_size(values: int) -> None:
    """Refuse a prompt of so many bytes whose file nobody would read, before it is trained.

    Raises:
        InputError: it is too large.
    """
    most = MAX_PROMPT_BYTES - _HEADER_BYTES
    if values > most:
        raise InputError(
            f"the prompt takes {values:,} bytes, more than the {most:,} that its file has room for; train a shorter "
            "one (--length), or one that enters the first layer alone (--entry first_layer)."
        )


def shared_prompt(
    name: str, prompts: MultitaskPrompt, objective: TaskObjective, training: Mapping[str, Any]
) -> SharedPrompt:
    """Return the file of a trained shared prompt, in float16."""
    licenses = {task.recipe.license for task in objective.tasks if task.recipe.license}
    return SharedPrompt(
        name=name,
        values=_half(prompts.shared),
        layout=objective.layout,
        backbone=objective.backbone.fingerprint,
        training=dict(training),
        license="; ".join(sorted(licenses)),
        entry=objective.entry,
    )


def write_tasks(
    objective: TaskObjective,
    prompts: MultitaskPrompt,
    shared: SharedPrompt,
    folder: Path,
    training: Sequence[Mapping[str, Any]],
    *,
    own_prompt: bool = False,
) -> list[TaskFile]:
    """Measure every task with its rounded values, and write ``folder/tasks/<name>.safetensors``.

    Args:
        objective: the tasks.
        prompts: their values, already rounded to float16.
        shared: the shared prompt that the tasks scale, or come from.
        folder: where ``tasks/`` goes.
        training: for each task how it was made.
        own_prompt: whether each task carries the prompt it was trained with.
    """
    written = []
    for index, data in enumerate(objective.tasks):
        facts = dict(training[index]) | {"rows": len(data.train), "source": data.recipe.source}
        task = _task_file(objective, prompts, shared, index, facts, own_prompt=own_prompt)
        VectorFolder(folder).save(task)
        written.append(task)
    return written


def _task_file(
    objective: TaskObjective,
    prompts: MultitaskPrompt,
    shared: SharedPrompt,
    index: int,
    training: Mapping[str, Any],
    *,
    own_prompt: bool,
) -> TaskFile:
    data, backbone = objective.tasks[index], objective.backbone
    recipe = data.recipe
    composed = prompts(index).detach()
    found = objective.measured(index, composed)
    return TaskFile(
        name=recipe.name,
        kind=recipe.kind,
        labels=data.labels,
        label_texts=tuple(map(tuple, objective.label_texts[index])),
        u=_half(prompts.u[index]),
        v=_half(prompts.v[index]),
        own_prompt=_half(prompts.shared) if own_prompt else None,
        layout=objective.layout if own_prompt else "",
        entry=objective.entry if own_prompt else "",
        prompt=shared.name,
        prompt_sha256=shared.fingerprint,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        template=objective.template(index),
        max_length=objective.max_lengths[index],
        readout=found.readout,
        scale=found.scale,
        reference_example=found.reference_example,
        metrics=found.metrics,
        generation=dict(found.generation) | recipe.fitting(),
        training=dict(training),
        version=recipe.version,
        license=recipe.license,
    )


def _half(values: Tensor) -> np.ndarray[Any, np.dtype[np.float16]]:
    with torch.no_grad():
        return values.cpu().numpy().astype(np.float16)
