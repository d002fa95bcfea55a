"""What every objective is: tasks, a loss on a batch of one of them, and figures (paper section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.prompts import Entry, Layout
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.rows import Rows, TaskData
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.settings import DistillationSettings

#: Rows that are read at once where nothing is learned.
_BATCH = 32

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Teacher:
    """A frozen prompt that knows a task.

    Attributes:
        prompt: its rows ``(l, d)``.
        layout: attention layout that it is read in, which need not be the student's.
        entry: where it enters.
        head: the classifier that answers for it, on the state at the first position; None where it
            answers as the student does.
        outputs: for each label of the task, which output of the head it is.
    """

    prompt: Tensor
    layout: Layout = Layout.PREFIX
    entry: Entry = Entry.FIRST_LAYER
    head: Head | None = None
    outputs: Sequence[int] = ()

    def answers(self, states: Tensor, labels: NDArray[np.int64]) -> Tensor:
        """Return the head's logits of some labels, ``(rows, labels)``, from first states ``(rows, d)``."""
        assert self.head is not None
        logits = self.head(states.cpu().numpy())[:, np.asarray(self.outputs)[labels]]
        return torch.from_numpy(logits.astype(np.float32)).to(states.device)


@dataclass(frozen=True)
class Distillation(DistillationSettings):
    """Frozen teachers, and how much they count.

    Attributes:
        teachers: one a task, in the tasks' order.
    """

    teachers: Sequence[Teacher]


@dataclass(frozen=True)
class Loss:
    """A step's loss and its parts, each a scalar.

    Attributes:
        task: cross entropy (equation 1).
        logits: divergence from the teacher's answers (equation 3).
        hidden: squared distance from the teacher's hidden states (equation 4).
        total: what is minimized (equation 5).
    """

    task: Tensor
    logits: Tensor
    hidden: Tensor
    total: Tensor

    def parts(self) -> dict[str, float]:
        """Return the values by name."""
        return {name: float(getattr(self, name).detach()) for name in ("task", "logits", "hidden", "total")}


@dataclass(frozen=True)
class Evaluation:
    """What a task file says about how its answers are made and how good they are.

    Attributes:
        readout: how the answer is read.
        reference_example: an example with its answer.
        metrics: figures on validation rows and, where there are some, on test rows.
        scale: what logits are multiplied by before the softmax.
        generation: how text is written, where it is.
    """

    readout: str
    reference_example: Mapping[str, Any]
    metrics: Mapping[str, Any]
    scale: float = 1.0
    generation: Mapping[str, Any] = field(default_factory=dict)


class TaskObjective(ABC):
    """Tasks, tokenized once, with a loss and figures.

    Attributes:
        backbone: the frozen model.
        tasks: the tasks.
        label_texts: for each task, each label's texts.
        distillation: teachers of the tasks, or None for the task's loss alone.
        layout: attention layout that prompts are read in.
        entry: where prompts enter.
        train_rows: for each task its tokenized training texts.
        max_lengths: for each task the longest input in tokens.
    """

    backbone: AnyBackbone
    train_rows: list[list[Encoded]]

    def __init__(
        self,
        backbone: AnyBackbone,
        tasks: Sequence[TaskData],
        label_texts: Sequence[Sequence[Sequence[str]]],
        distillation: Distillation | None = None,
        layout: Layout = Layout.PREFIX,
        entry: Entry = Entry.FIRST_LAYER,
    ) -> None:
        """Keep what an objective is made of, and tokenize what is read at every step.

        Args:
            backbone: the frozen model.
            tasks: the tasks.
            label_texts: for each task, each label's texts.
            distillation: teachers of the tasks, or None for the task's loss alone.
            layout: ``"prefix"`` or ``"joint"``.
            entry: where prompts enter, one of `mpt_edge.formats.prompts.Entry`.

        Raises:
            InputError: a label's or a wanted text has no tokens, two labels have the same, a label word is not one, or
                a recipe wants texts cut where the readout cannot.
            UnsupportedModelError: the backbone lacks the head that the tasks answer by.
        """
        self.backbone, self.tasks, self.label_texts, self.distillation = backbone, tasks, label_texts, distillation
        self.layout, self.entry = layout, entry
        self.max_lengths = [min(task.recipe.max_length, backbone.max_length) for task in tasks]
        self._tokenize()

    @abstractmethod
    def _tokenize(self) -> None:
        """Set `train_rows`, and what else the kind of objective reads at every step."""

    def template(self, index: int) -> str:
        """Return one task's template as its file has it."""
        return self.tasks[index].recipe.template

    @abstractmethod
    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        """Return the loss of one task's batch under its prompt ``(l, d)`` or none.

        Of a part of a batch it is that part's share: the parts' losses, and gradients, add up to the whole batch's.
        """

    @abstractmethod
    def score(self, index: int, prompt: Tensor | None, rows: Rows) -> float:
        """Return one task's metric, as its recipe names it, on rows read under a prompt ``(l, d)`` or none."""

    @abstractmethod
    def measured(self, index: int, prompt: Tensor) -> Evaluation:
        """Return what the file of one task says about itself, under its finished prompt ``(l, d)``."""

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint depends on, in text."""
        found: dict[str, Any] = {
            "backbone": self.backbone.fingerprint,
            "data": repr([(task.recipe, task.labels, task.train, task.validation) for task in self.tasks]),
            "label_texts": self.label_texts,
            "layout": self.layout,
        }
        if self.entry != Entry.FIRST_LAYER:  # left out, so that checkpoints from before there was a choice still fit
            found["entry"] = self.entry
        fitting = [task.recipe.fitting() for task in self.tasks]
        if any(fitting):
            found["fitting"] = fitting
        if self.distillation is not None:
            given = self.distillation
            values = [teacher.prompt.cpu().numpy().tobytes().hex() for teacher in given.teachers]
            found["distillation"] = [values, given.weight, given.temperature, given.hidden]
            found["distillation"] += [[t.layout, t.entry, list(t.outputs)] for t in given.teachers]
        return found

    def _encode(self, index: int, texts: Sequence[Text]) -> list[Encoded]:
        """Tokenize texts of a task, each cut so that the template stays whole."""
        template, length, cut = self.template(index), self.max_lengths[index], self.tasks[index].recipe.cut
        return [self.backbone.texts.fit(template, text, length, cut) for text in texts]

    def _counts(self, index: int, row: int) -> tuple[int, int]:
        """Return how many answers a training row has in the task's loss, and how many of its hidden states count."""
        return 1, len(self.train_rows[index][row].ids)

    def _shares(self, batch: TaskBatch) -> tuple[float, float]:
        """Return which parts of the whole batch's answers and hidden states are a batch's own."""
        if batch.whole is None:
            return 1.0, 1.0
        own, all_ = (np.sum([self._counts(batch.task, i) for i in rows], 0) for rows in (batch.rows, batch.whole))
        answers, states = own / all_
        return float(answers), float(states)

    def _with_teacher(
        self,
        task: Tensor,
        batch: TaskBatch,
        student: tuple[Tensor, Tensor],
        mask: Tensor,
        taught: Callable[[Teacher], tuple[Tensor, Tensor]],
    ) -> Loss:
        """Return a task's loss with what its teacher adds, or alone where there are no teachers.

        Args:
            task: the task's loss, a mean over the batch's answers.
            batch: the batch, or a part of one, whose means then count by its share.
            student: logits ``(rows, classes)`` and hidden states ``(rows, tokens, d)``.
            mask: 1 for tokens whose hidden states count, ``(rows, tokens)``.
            taught: returns the same two of a teacher; called without gradient.
        """
        shares = self._shares(batch)
        if self.distillation is None:
            zero = torch.zeros_like(task)
            return Loss(task * shares[0], zero, zero, task * shares[0])
        with torch.no_grad():
            teacher = taught(self.distillation.teachers[batch.task])
        return taught_loss(task, student, teacher, mask, self.distillation, shares)


def in_batches(rows: Sequence[_Row], width: int = 1) -> list[Sequence[_Row]]:
    """Cut rows into batches of a size that is read at once where nothing is learned.

    Args:
        rows: what is read.
        width: how many rows the model reads for each.
    """
    size = max(1, _BATCH // width)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T² KL(teacher ‖ student)`` of two softmaxes with temperature, averaged over rows (equation 3).

    The factor T² keeps the gradient's size when T changes (Hinton et al. 2015); at T = 1 it is the
    paper's term, averaged where the paper sums.
    """
    log_student = functional.log_softmax(student / temperature, -1)
    log_teacher = functional.log_softmax(teacher / temperature, -1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the squared distance of last hidden states, averaged over visible tokens and channels.

    Equation 4 sums; a sum over channels is ten times the task's loss here, and the student then
    copies states instead of learning the task (docs/results.md has the figures).

    Args:
        student: ``(rows, tokens, d)``.
        teacher: likewise.
        mask: 1 for visible tokens, ``(rows, tokens)``.
    """
    visible = mask.to(student.dtype)
    distance = (student - teacher).square().mean(-1)
    return (distance * visible).sum() / visible.sum()


def taught_loss(
    task: Tensor,
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    mask: Tensor,
    distillation: Distillation,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Loss:
    """Return the task's loss with what the teacher adds (equation 5).

    Args:
        task: the task's loss.
        student: logits ``(rows, classes)`` and hidden states ``(rows, tokens, d)``.
        teacher: likewise.
        mask: 1 for tokens whose hidden states count, ``(rows, tokens)``.
        distillation: weight, temperature, and whether hidden states count.
        shares: what a mean over answers, and one over hidden states, count for: less than 1 for a part of a batch.
    """
    divergence = logit_loss(student[0], teacher[0], distillation.temperature)
    distance = hidden_loss(student[1], teacher[1], mask) if distillation.hidden else torch.zeros_like(task)
    task, divergence, distance = task * shares[0], divergence * shares[0], distance * shares[1]
    return Loss(task, divergence, distance, task + distillation.weight * (divergence + distance))
