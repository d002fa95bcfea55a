"""Distillation from frozen teachers: their answers and their hidden states (paper section 3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.formats import tensors
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.placement import Placement
from mpt_edge.training.settings import DistillationSettings


@dataclass(frozen=True)
class Teacher:
    """A frozen prompt that solves a task."""

    prompt: Tensor
    """``(l, d)``, or ``(l, layers, d)`` where it enters all layers."""
    placement: Placement = field(default_factory=Placement)
    """Its own placement, which need not be the student's."""
    head: LinearHead | None = None
    """Head on the state at the first position; None for a teacher that answers as the student does."""
    outputs: Sequence[int] = ()
    """Output of the head for each label of the task."""

    def answers(self, states: Tensor, labels: NDArray[np.int64]) -> Tensor:
        """Return the head's logits of some labels, ``(rows, labels)``, from first states ``(rows, d)``."""
        assert self.head is not None
        logits = self.head(states.cpu().numpy())[:, np.asarray(self.outputs)[labels]]
        return torch.from_numpy(logits.astype(np.float32)).to(states.device)

    def identity(self) -> dict[str, Any]:
        """Return all that a checkpoint depends on, as JSON has it."""
        head = self.head
        return {
            "prompt": hashlib.sha256(self.prompt.detach().cpu().numpy().tobytes()).hexdigest(),
            "placement": asdict(self.placement),
            "head": head and [tensors.fingerprint(*head.tensors().values()), head.activations],
            "outputs": list(self.outputs),
        }


@dataclass(frozen=True)
class Distillation(DistillationSettings):
    """A task's teacher, and how much it counts."""

    teacher: Teacher

    def identity(self) -> dict[str, Any]:
        """Return all that a checkpoint depends on, as JSON has it."""
        return vars(self) | {"teacher": self.teacher.identity()}


@dataclass(frozen=True)
class Loss:
    """Loss of a batch and its parts, each a scalar."""

    task: Tensor
    """Cross entropy (equation 1)."""
    logits: Tensor
    """Divergence from the teacher's answers (equation 3)."""
    hidden: Tensor
    """Squared distance from the teacher's hidden states (equation 4)."""
    total: Tensor
    """The loss that training minimizes (equation 5)."""

    def parts(self) -> dict[str, float]:
        """Return the values by name."""
        return {name: float(value.detach()) for name, value in vars(self).items()}


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T² KL(teacher ‖ student)`` of two softmaxes with temperature, averaged over rows (equation 3).

    The factor T² keeps the gradient's size when T changes (Hinton et al. 2015). At T = 1 it is the
    paper's term, averaged where the paper sums.
    """
    log_student = functional.log_softmax(student / temperature, -1)
    log_teacher = functional.log_softmax(teacher / temperature, -1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the squared distance of last hidden states, averaged over tokens and channels (equation 4).

    The paper sums. A sum over channels is ten times the task's loss here, and the student then copies
    states instead of learning the task (docs/results.md has the numbers).

    Args:
        student: ``(rows, tokens, d)``.
        teacher: likewise.
        mask: 1 for tokens, 0 for padding, ``(rows, tokens)``.
    """
    visible = mask.to(student.dtype)
    distance = (student - teacher).square().mean(-1)
    return (distance * visible).sum() / visible.sum()


def distilled_loss(
    task: Tensor,
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    mask: Tensor,
    settings: DistillationSettings,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Loss:
    """Return the task's loss with the teacher's part (equation 5).

    Args:
        task: the task's loss.
        student: logits ``(rows, classes)`` and hidden states ``(rows, tokens, d)``.
        teacher: likewise.
        mask: 1 for tokens whose hidden states count, ``(rows, tokens)``.
        settings: weight, temperature, and whether hidden states count.
        shares: weights of means over answers and over hidden states, below 1 for a part of a batch.
    """
    divergence = logit_loss(student[0], teacher[0], settings.temperature)
    distance = hidden_loss(student[1], teacher[1], mask) if settings.hidden else torch.zeros_like(task)
    task, divergence, distance = task * shares[0], divergence * shares[0], distance * shares[1]
    return Loss(task, divergence, distance, task + settings.weight * (divergence + distance))
