"""Start of label vectors: their bits, and their first values.

They have as many bits as the task file has room for. First they are the means of their labels' examples and texts,
or a linear head that is fitted to the embeddings under the first prompt: whichever is right more often on validation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError
from mpt_edge.formats.label_vectors import STEP_SIZES, packed_width
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.similarity import TRAINING_SCALE
from mpt_edge.training.quantized_labels import QuantizedLabels

#: Bytes of a task file of up to ten labels, bytes more for each further label, and those of all but labels.
_MAX_BYTES, _BYTES_PER_LABEL, _OTHER_BYTES = 4096, 100, 2304

#: Examples of a task that its start is computed from.
_TRAINING_EXAMPLES, _VALIDATION_EXAMPLES = 8000, 1000

#: Steps, batch size and learning rate of a linear head.
_STEPS, _BATCH, _RATE = 2000, 128, 0.02


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
            bits = choose_bits(task.recipe.name, task.data.labels, start.means.shape[1])
            labels = _best_start(start, bits)
            prompts.add_labels(number, labels)
            task.answer_by(labels)


def choose_bits(name: str, labels: Sequence[str], width: int) -> int:
    """Return the most bits of a label vector's number that a task file has room for.

    Args:
        name: the task's name.
        labels: names of the labels, which the file has as JSON.
        width: channels d.

    Raises:
        InputError: there is no room for one bit.
    """
    count, names = len(labels), len(json.dumps(list(labels), ensure_ascii=False).encode())
    room = _MAX_BYTES + _BYTES_PER_LABEL * max(0, count - 10) - _OTHER_BYTES - names
    fitting = [bits for bits in STEP_SIZES if count * (packed_width(width, bits) + 2) <= room]
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


def _best_start(start: _Start, bits: int) -> QuantizedLabels:
    """Return the means or a fitted linear head, whichever is right more often on validation."""
    means, fitted = QuantizedLabels(start.means, bits), QuantizedLabels(start.means, bits)
    _fit(fitted, start)
    return fitted if _right(fitted, start) > _right(means, start) else means


@torch.no_grad()
def _right(labels: QuantizedLabels, start: _Start) -> int:
    return int(((start.validation @ labels().T).argmax(1) == start.right).sum())


def _fit(labels: QuantizedLabels, start: _Start) -> None:
    """Fit label vectors to embeddings that do not change, by cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(labels.parameters(), lr=_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            rows = torch.randint(len(start.train), (_BATCH,), generator=generator)
            loss = functional.cross_entropy(TRAINING_SCALE * start.train[rows] @ labels().T, start.target[rows])
            (labels.vectors.grad,) = torch.autograd.grad(loss, [labels.vectors])
            optimizer.step()
            decay.step()
