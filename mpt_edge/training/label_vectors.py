"""Start of label vectors: their levels, and their first values.

Their numbers have as many levels as the task file has room for. First they are the means of their labels' examples
and texts, or a linear head that is fitted to the embeddings under the first prompt: whichever is right more often on
validation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError
from mpt_edge.formats.label_vectors import BYTES_PER_LABEL, STEP_SIZES, packed_width
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.similarity import TRAINING_SCALE
from mpt_edge.training.quantized_labels import QuantizedLabels

#: Bytes of a task file of up to ten labels, bytes more for each further label, and those of all but labels.
_MAX_BYTES, _BYTES_PER_LABEL, _OTHER_BYTES = 4096, 100, 2560

#: Examples of a task that its start is computed from.
_TRAINING_EXAMPLES, _VALIDATION_EXAMPLES = 20_000, 1000

#: Steps, batch size, learning rate and weight decay of a linear head. Without decay it is a point less right.
_STEPS, _BATCH, _RATE, _DECAY = 3000, 256, 0.02, 0.5


def start_label_vectors(objectives: Sequence[TaskObjective], prompts: MultitaskPrompt) -> None:
    """Give every task with label vectors its first ones, under its first prompt.

    Args:
        objectives: the tasks, in the order of ``prompts``.
        prompts: their prompts.

    Raises:
        InputError: a task has so many labels that its file has no room for vectors.
    """
    for number, task in enumerate(objectives):
        if isinstance(task, LabelVectorObjective):
            start = _read_start(task, prompts(number).detach())
            levels = choose_levels(task.recipe.name, task.data.labels, start.means.shape[1])
            labels = _best_start(start, levels)
            prompts.add_labels(number, labels)
            task.answer_by(labels)


def choose_levels(name: str, labels: Sequence[str], width: int) -> int:
    """Return the most levels of a label vector's numbers that a task file has room for.

    Args:
        name: the task's name.
        labels: names of the labels, which the file has as JSON.
        width: channels d.

    Raises:
        InputError: there is no room for two levels.
    """
    count, names = len(labels), len(json.dumps(list(labels), ensure_ascii=False).encode())
    room = _MAX_BYTES + _BYTES_PER_LABEL * max(0, count - 10) - _OTHER_BYTES - names
    fitting = [levels for levels in STEP_SIZES if count * (packed_width(width, levels) + BYTES_PER_LABEL) <= room]
    if not fitting:
        raise InputError(
            f"{name!r} has {count} labels, whose vectors of {width} channels its file has no room for; leave head_type "
            "out of the recipe."
        )
    return max(fitting)


@dataclass(frozen=True)
class _Start:
    """Unit embeddings of a task's examples under its first prompt."""

    train: Tensor
    """Shape ``(examples, d)``."""
    target: Tensor
    """Label of each, ``(examples,)``."""
    validation: Tensor
    """Shape ``(validation examples, d)``."""
    right: Tensor
    """Label of each, ``(validation examples,)``."""
    means: Tensor
    """Mean of each label, ``(labels, d)``."""


def _read_start(task: LabelVectorObjective, prompt: Tensor) -> _Start:
    train, validation = task.data.train.sample(_TRAINING_EXAMPLES), task.data.validation.sample(_VALIDATION_EXAMPLES)
    embedded = task.embeddings(prompt, train)
    return _Start(
        train=embedded.cpu(),
        target=torch.tensor(train.labels),
        validation=task.embeddings(prompt, validation).cpu(),
        right=torch.tensor(validation.labels),
        means=task.label_means(prompt, train, embedded).cpu(),
    )


def _best_start(start: _Start, levels: int) -> QuantizedLabels:
    """Return the means or a fitted linear head, whichever is right more often on validation."""
    means, fitted = QuantizedLabels(start.means, levels), QuantizedLabels(start.means, levels)
    fit_labels(fitted, start.train, start.target)
    return fitted if _right(fitted, start) > _right(means, start) else means


@torch.no_grad()
def _right(labels: QuantizedLabels, start: _Start) -> int:
    return int((labels(start.validation).argmax(1) == start.right).sum())


def fit_labels(labels: QuantizedLabels, embedded: Tensor, target: Tensor) -> None:
    """Fit label vectors and biases to embeddings that do not change, by cross-entropy.

    Args:
        labels: vectors and biases, where they start.
        embedded: unit embeddings of examples, ``(examples, d)``.
        target: label of each, ``(examples,)``.
    """
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(labels.groups(_RATE, _DECAY), weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            rows = torch.randint(len(embedded), (_BATCH,), generator=generator)
            loss = functional.cross_entropy(TRAINING_SCALE * labels(embedded[rows]), target[rows])
            labels.vectors.grad, labels.biases.grad = torch.autograd.grad(loss, [labels.vectors, labels.biases])
            optimizer.step()
            decay.step()
