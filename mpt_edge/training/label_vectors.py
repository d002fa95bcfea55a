"""Start of label vectors: their width, their basis, and their first values.

The width is chosen on validation, among those that the task file has room for. For each, a linear head is
fitted to the embeddings under the first prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError
from mpt_edge.training.multitask import MultitaskPrompt
from mpt_edge.training.objectives.label_vectors import LabelVectorObjective
from mpt_edge.training.objectives.objective import TaskObjective
from mpt_edge.training.objectives.similarity import TRAINING_SCALE

#: Directions of a shared basis.
BASIS_SIZE = 128

#: Widths of label vectors that are tried, besides the full one.
WIDTHS = (16, 32, 48, 64, 96, 128)

#: Bytes of a task file of up to ten labels, bytes more for each further label, and those of all but labels.
_MAX_BYTES, _BYTES_PER_LABEL, _OTHER_BYTES = 4096, 100, 2304

#: Examples of a task that its start is computed from.
_TRAINING_EXAMPLES, _VALIDATION_EXAMPLES = 4000, 1000

#: Steps, learning rate and weight decay of a linear head on all examples at once.
_STEPS, _RATE, _DECAY = 200, 0.02, 1e-4


def start_label_vectors(
    objectives: Sequence[TaskObjective], prompts: MultitaskPrompt, *, has_new_basis: bool = False
) -> dict[str, int]:
    """Give every task with label vectors its first ones, under its first prompt.

    Args:
        objectives: the tasks, in the order of ``prompts``.
        prompts: their prompts, with the basis of the shared prompt where it has one.
        has_new_basis: whether to make the basis from these tasks.

    Returns:
        The width of each task's label vectors, by its name.

    Raises:
        InputError: a task has so many labels that no width fits into its file.
    """
    tasks = {i: each for i, each in enumerate(objectives) if isinstance(each, LabelVectorObjective)}
    starts = {i: _read_start(task, prompts(i).detach()) for i, task in tasks.items()}
    if has_new_basis and tasks:
        prompts.basis = torch.nn.Parameter(leading_directions([start.train for start in starts.values()]))
    basis = None if prompts.basis is None else prompts.basis.detach().cpu()
    result = {}
    for i, task in tasks.items():
        start = starts[i]
        width = _choose_width(task, start, basis)
        result[task.recipe.name] = width
        is_full = width == start.means.shape[1] or basis is None
        vectors = start.means if is_full or basis is None else start.means @ basis[:width].T
        task.share(prompts.add_labels(i, vectors), None if is_full else prompts.basis)
    return result


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


def leading_directions(embedded: Sequence[Tensor]) -> Tensor:
    """Return the leading directions of several tasks' embeddings, each task counted alike.

    Args:
        embedded: unit embeddings ``(examples, d)`` of each task.

    Returns:
        Orthonormal rows ``(BASIS_SIZE, d)``, or as many as there are channels, the leading one first.
    """
    moments = [each.T @ each / len(each) for each in embedded]
    _, vectors = torch.linalg.eigh(torch.stack(moments).mean(0))
    directions: Tensor = vectors.T.flip(0)[:BASIS_SIZE].contiguous()
    return directions


def possible_widths(labels: Sequence[str], size: int, basis: int) -> list[int]:
    """Return the widths of label vectors that a task file has room for, in rising order.

    Args:
        labels: names of the labels, which the file has as JSON.
        size: channels d, the full width.
        basis: directions of the basis; 0 for none.
    """
    count, names = len(labels), len(json.dumps(list(labels), ensure_ascii=False).encode())
    room = _MAX_BYTES + _BYTES_PER_LABEL * max(0, count - 10) - _OTHER_BYTES - names
    widths = [width for width in WIDTHS if width <= basis and width < size] + [size]
    return [width for width in widths if count * (width + 2) <= room]


def _choose_width(task: LabelVectorObjective, start: _Start, basis: Tensor | None) -> int:
    """Return the width whose linear head is right most often on validation; of equal ones the smallest.

    Raises:
        InputError: the file has room for no width.
    """
    size = start.train.shape[1]
    widths = possible_widths(task.data.labels, size, 0 if basis is None else len(basis))
    if not widths:
        raise InputError(
            f"{task.recipe.name!r} has {len(task.data.labels)} labels, whose vectors its file has no room for; train "
            "it on a shared prompt that has a basis of label vectors, or with head_type = 'similarity'."
        )
    if len(widths) == 1:
        return widths[0]
    scores = {}
    for width in widths:
        is_full = width == size or basis is None
        train, validation, means = (
            each if is_full or basis is None else each @ basis[:width].T
            for each in (start.train, start.validation, start.means)
        )
        head = _fit_linear_head(train, start.target, means)
        scores[width] = int(((validation @ head.T).argmax(1) == start.right).sum())
    return max(widths, key=lambda width: (scores[width], -width))


def _fit_linear_head(features: Tensor, target: Tensor, first: Tensor) -> Tensor:
    """Return the weights ``(labels, k)`` of a linear head on features ``(examples, k)``."""
    weights = first.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=_RATE, weight_decay=_DECAY)
    with torch.enable_grad():
        for _ in range(_STEPS):
            loss = functional.cross_entropy(TRAINING_SCALE * features @ weights.T, target)
            (weights.grad,) = torch.autograd.grad(loss, weights)
            optimizer.step()
    return weights.detach()
