"""What a step minimises: the task's loss, and what a teacher adds to it (paper section 3.2).

In the prefix layout the prompt of a task runs once a step, not once an example, because it does not
depend on the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.text import Encoded, Text
from mpt_edge.training.backbones import Backbone
from mpt_edge.training.data import Rows, TaskData, encode
from mpt_edge.training.metrics import classification_metrics
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.similarity import TRAINING_SCALE, Context, LabelTexts, Reading, read, similarities


@dataclass(frozen=True)
class Distillation:
    """Frozen teachers, and how much they count.

    Attributes:
        teachers: one prompt ``(l, d)`` a task, trained by plain prompt tuning.
        weight: λ of equation 5; the paper's is 0.9.
        temperature: T of both softmaxes of equation 3, which the paper does not state.
        hidden: whether equation 4 counts.
    """

    teachers: Sequence[Tensor]
    weight: float = 0.9
    temperature: float = 2.0
    hidden: bool = True


@dataclass(frozen=True)
class Loss:
    """A step's loss and its parts, each a scalar.

    Attributes:
        task: cross entropy (equation 1).
        logits: divergence from the teacher's answers (equation 3).
        hidden: squared distance from the teacher's hidden states (equation 4).
        total: what is minimised (equation 5).
    """

    task: Tensor
    logits: Tensor
    hidden: Tensor
    total: Tensor

    def parts(self) -> dict[str, float]:
        """Return the values by name."""
        return {name: float(getattr(self, name).detach()) for name in ("task", "logits", "hidden", "total")}


class Objective:
    """The tasks' texts and labels, tokenised once, and the loss on a batch of them.

    Attributes:
        layout: attention layout that prompts are read in.
        entry: where prompts enter.
        train_rows: for each task its tokenised training texts.
        max_lengths: for each task the longest input in tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[TaskData],
        label_texts: Sequence[Sequence[Sequence[str]]],
        distillation: Distillation | None = None,
        layout: str = "prefix",
        entry: str = "first_layer",
    ) -> None:
        """Tokenise everything.

        Args:
            backbone: the frozen encoder.
            tasks: the tasks.
            label_texts: for each task, each label's texts.
            distillation: teachers of the tasks, or None for the task's loss alone.
            layout: ``"prefix"`` or ``"joint"``.
            entry: ``"first_layer"`` or ``"inputs_embeds"``.
        """
        self.layout, self.entry = layout, entry
        self.backbone, self.tasks, self.label_texts, self.distillation = backbone, tasks, label_texts, distillation
        self.max_lengths = [min(task.recipe.max_length, backbone.max_length) for task in tasks]
        self.train_rows = [self._encode(i, task.train.texts) for i, task in enumerate(tasks)]
        self._labels = [
            LabelTexts.encode(backbone, texts, n) for texts, n in zip(label_texts, self.max_lengths, strict=True)
        ]

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        """Return the loss of one task's batch, over all its labels or a sample of them.

        Args:
            prompt: the task's prompt, ``(l, d)``, with gradient; None where the backbone itself is adapted.
            batch: one task and some of its training rows.
            rng: draws the labels and their texts.
        """
        rows = [self.train_rows[batch.task][i] for i in batch.rows]
        gold = np.array([self.tasks[batch.task].train.labels[i] for i in batch.rows])
        label_rows, labels = self._labels[batch.task].sample(gold, rng)
        logits, texts = self._read(prompt, rows, label_rows)
        targets = torch.tensor([int(np.flatnonzero(labels == label)[0]) for label in gold], device=logits.device)
        task = functional.cross_entropy(logits, targets)
        if self.distillation is None:
            zero = torch.zeros_like(task)
            return Loss(task, zero, zero, task)
        with torch.no_grad():
            teacher = self.distillation.teachers[batch.task].to(logits.device)
            teacher_logits, teacher_texts = self._read(teacher, rows, label_rows)
        divergence = logit_loss(logits, teacher_logits, self.distillation.temperature)
        distance = hidden_loss(texts, teacher_texts) if self.distillation.hidden else torch.zeros_like(task)
        return Loss(task, divergence, distance, task + self.distillation.weight * (divergence + distance))

    def similarities(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return cosine similarities ``(rows, labels)`` of one task's texts under a prompt ``(l, d)`` or none."""
        context = Context.of(self.backbone, prompt, self.layout, self.entry)
        return similarities(self.backbone, context, self._encode(index, texts), self._labels[index])

    def score(self, index: int, prompt: Tensor | None, rows: Rows) -> float:
        """Return one task's metric, as its recipe names it, on rows read under a prompt ``(l, d)`` or none."""
        found = self.similarities(index, prompt, rows.texts)
        return float(classification_metrics(found.argmax(1), rows)[self.tasks[index].recipe.metric])

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint depends on, in text."""
        found: dict[str, Any] = {
            "backbone": self.backbone.fingerprint,
            "data": repr([(task.recipe, task.labels, task.train, task.validation) for task in self.tasks]),
            "label_texts": self.label_texts,
            "layout": self.layout,
        }
        if self.entry != "first_layer":  # left out, so that checkpoints from before there was a choice still fit
            found["entry"] = self.entry
        if self.distillation is not None:
            given = self.distillation
            values = [teacher.cpu().numpy().tobytes().hex() for teacher in given.teachers]
            found["distillation"] = [values, given.weight, given.temperature, given.hidden]
        return found

    def _read(self, prompt: Tensor | None, rows: list[Encoded], labels: list[Encoded]) -> tuple[Tensor, Reading]:
        context = Context.of(self.backbone, prompt, self.layout, self.entry)
        texts = read(self.backbone, rows, context)
        named = read(self.backbone, labels, context)
        with torch.autocast(texts.embeddings.device.type, enabled=False):  # cosines need float32's digits
            return TRAINING_SCALE * texts.embeddings @ named.embeddings.T, texts

    def _encode(self, index: int, texts: Sequence[Text]) -> list[Encoded]:
        return encode(self.backbone.texts, self.tasks[index].recipe, texts, self.max_lengths[index])


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T² KL(teacher ‖ student)`` of two softmaxes with temperature, averaged over rows (equation 3).

    The factor T² keeps the gradient's size when T changes (Hinton et al. 2015); at T = 1 it is the
    paper's term, averaged where the paper sums.
    """
    log_student = functional.log_softmax(student / temperature, -1)
    log_teacher = functional.log_softmax(teacher / temperature, -1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def hidden_loss(student: Reading, teacher: Reading) -> Tensor:
    """Return the squared distance of last hidden states, averaged over visible tokens and channels.

    Equation 4 sums; a sum over channels is ten times the task's loss here, and the student then
    copies states instead of learning the task (docs/training.md has the figures).
    """
    visible = student.mask.to(student.hidden.dtype)
    distance = (student.hidden - teacher.hidden).square().mean(-1)
    return (distance * visible).sum() / visible.sum()
