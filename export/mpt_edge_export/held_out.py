"""Loss of tasks on held-out examples in each precision, measured by the device's runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mpt_edge
from mpt_edge import Generation, Model, Prediction
from mpt_edge.errors import InputError
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.training.data.examples import TaskData, load_task
from mpt_edge.training.data.recipes import load_recipe

#: Validation examples of a task that are measured.
EXAMPLES = 64

#: Rise of a task's loss above which an export warns: a share of the float32 graph's, and nats.
MAX_SHARE, MAX_RISE = 0.05, 0.02

#: Entry of a precision's parity in the manifest.
HELD_OUT = "held_out"


def load_held_out(recipes: Sequence[Path], data: Path) -> list[TaskData]:
    """Read the tasks to measure. Raises InputError where a recipe, or its data, cannot be read."""
    return [load_task(load_recipe(path), data) for path in recipes]


def check_held_out(held_out: Sequence[TaskData], tasks: Mapping[str, TaskFile]) -> None:
    """Raise InputError where a recipe belongs to none of a bundle's tasks, or has other labels."""
    for each in held_out:
        name = each.recipe.name
        if name not in tasks:
            raise InputError(
                f"there is no task {name!r} to measure (there are {', '.join(sorted(tasks)) or 'none'}); pass the "
                "recipe of one of them as --held-out."
            )
        if set(each.labels) != set(tasks[name].labels):
            raise InputError(f"the recipe of {name!r} has other labels than the task; pass the one it was trained by.")


def with_losses(
    parity: Mapping[str, Any], folder: Path, held_out: Sequence[TaskData], precisions: Sequence[Precision]
) -> dict[str, Any]:
    """Add the losses of each quantized graph, beside those of the float32 one, to a bundle's parity.

    Args:
        parity: the manifest's entry, with one for each quantized precision.
        folder: a bundle that has the float32 graph and all others.
        held_out: tasks to measure.
        precisions: those of the bundle.
    """
    exact = _losses(folder, held_out, Precision.FLOAT32)
    result = dict(parity)
    for precision in precisions:
        if precision is not Precision.FLOAT32:
            losses = _losses(folder, held_out, precision)
            pairs = {name: {"loss": losses[name], "float32_loss": exact[name]} for name in losses}
            result[precision.value] = {**parity[precision.value], HELD_OUT: pairs}
    return result


def rise_warnings(precision: str, parity: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each task that a quantized graph answers worse than the float32 one."""
    for name, losses in parity.get(HELD_OUT, {}).items():
        loss, exact = losses["loss"], losses["float32_loss"]
        if not loss <= exact * (1 + MAX_SHARE) + MAX_RISE:
            yield (
                f"warning: the {precision} graph has a loss of {loss:.3f} on held-out examples of {name!r}, "
                f"{exact:.3f} in float32; export a more exact precision for it."
            )


def _losses(folder: Path, held_out: Sequence[TaskData], precision: Precision) -> dict[str, float]:
    model = mpt_edge.load(folder, precision=precision)
    return {each.recipe.name: round(_loss(model, each), 4) for each in held_out}


def _loss(model: Model, held_out: TaskData) -> float:
    """Return the mean negative log-likelihood of right labels, or per token of right texts."""
    name, sample = held_out.recipe.name, held_out.validation.sample(EXAMPLES)
    if held_out.recipe.is_generation:
        writer = model.task(name, Generation)
        likelihoods = [
            writer.log_likelihood(text, answers[0])
            for text, answers in zip(sample.texts, sample.references, strict=True)
        ]
        return -float(np.mean(likelihoods))
    answers = model.task(name, Prediction)(list(sample.texts))
    right = [answer.scores[held_out.labels[label]] for answer, label in zip(answers, sample.labels, strict=True)]
    return -float(np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())
