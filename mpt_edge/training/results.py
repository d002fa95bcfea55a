"""From trained vectors to files: rounding, measuring, and everything a task file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt_edge.prompts import SharedPrompt
from mpt_edge.taskfile import TaskFile
from mpt_edge.training.data import Rows
from mpt_edge.training.metrics import calibrated_scale, classification_metrics, softmax
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objective import Objective


def shared_prompt(
    name: str, prompts: MultitaskPrompt, objective: Objective, training: Mapping[str, Any]
) -> SharedPrompt:
    """Return the file of a trained shared prompt, in float16."""
    licences = {task.recipe.licence for task in objective.tasks if task.recipe.licence}
    return SharedPrompt(
        name=name,
        values=_half(prompts.shared),
        layout=objective.layout,
        backbone=objective.backbone.fingerprint,
        training=dict(training),
        licence="; ".join(sorted(licences)),
        entry=objective.entry,
    )


def write_tasks(
    objective: Objective,
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
        task.save(folder / "tasks" / f"{task.name}.safetensors")
        written.append(task)
    return written


def _task_file(
    objective: Objective,
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
    found = objective.similarities(index, composed, data.validation.texts)
    scale = calibrated_scale(found, data.validation)
    metrics: dict[str, Any] = {"validation": classification_metrics(found.argmax(1), data.validation)}
    if data.test is not None:
        metrics["test"] = _test_metrics(objective, composed, index, data.test)
    scores = softmax(found[:1] * scale)[0]
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
        template=recipe.template,
        max_length=objective.max_lengths[index],
        scale=scale,
        golden={
            "text": data.validation.texts[0],
            "label": data.labels[int(scores.argmax())],
            "score": round(float(scores.max()), 5),
        },
        metrics=metrics,
        training=dict(training),
        licence=recipe.licence,
    )


def _test_metrics(objective: Objective, composed: Tensor, index: int, rows: Rows) -> dict[str, Any]:
    return classification_metrics(objective.similarities(index, composed, rows.texts).argmax(1), rows)


def _half(values: Tensor) -> np.ndarray[Any, np.dtype[np.float16]]:
    with torch.no_grad():
        return values.cpu().numpy().astype(np.float16)
