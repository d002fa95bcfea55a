"""What a step minimises for an encoder that answers at a mask: which label's words are likeliest there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.masking import PLACEHOLDER, LabelWords, mask_place
from mpt_edge.text import Encoded, Text
from mpt_edge.training.backbones import Backbone, Mask
from mpt_edge.training.classifying import ClassifyingObjective
from mpt_edge.training.data import TaskData
from mpt_edge.training.masked import MaskedHead
from mpt_edge.training.objectives import Distillation, Loss, Teacher, taught_loss
from mpt_edge.training.schedule import TaskBatch
from mpt_edge.training.similarity import Context, Reading, read

#: Rows that are read at once where nothing is learned.
_BATCH = 32


@dataclass(frozen=True)
class _Cloze:
    """A task's template with the tokenizer's own mask, and its label words."""

    template: str
    words: LabelWords


class MaskObjective(ClassifyingObjective):
    """Classification by label words at a mask, on an encoder with a masked-LM head; see `TaskObjective`."""

    backbone: Backbone
    readout = "mask"

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[TaskData],
        label_texts: Sequence[Sequence[Sequence[str]]],
        distillation: Distillation | None = None,
        layout: str = "prefix",
        entry: str = "first_layer",
    ) -> None:
        """Tokenise everything; arguments are those of `Objective`.

        Raises:
            UnsupportedModelError: the model has no masked-LM head.
            InputError: a label word is not one token.
        """
        if backbone.mask is None or backbone.model.masked is None:
            raise UnsupportedModelError(
                f"{backbone.id} has no masked-LM head, which readout = 'mask' needs; pass a checkpoint saved with one, "
                "or leave readout out of the recipe."
            )
        self.layout, self.entry = layout, entry
        self.backbone, self.tasks, self.label_texts, self.distillation = backbone, tasks, label_texts, distillation
        self._mask: Mask = backbone.mask
        self._head: MaskedHead = backbone.model.masked
        self.max_lengths = [min(task.recipe.max_length, backbone.max_length) for task in tasks]
        self._clozes = [self._cloze(i, texts) for i, texts in enumerate(label_texts)]
        self.train_rows = [self._encode(i, task.train.texts) for i, task in enumerate(tasks)]

    def template(self, index: int) -> str:
        """Return the template as task files have it, with the tokenizer's own mask."""
        return self._clozes[index].template

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the loss of one task's batch; see `TaskObjective.loss`."""
        rows = [self.train_rows[batch.task][i] for i in batch.rows]
        logits, texts = self._read(batch.task, rows, Context.of(self.backbone, prompt, self.layout, self.entry))
        targets = torch.tensor([self.tasks[batch.task].train.labels[i] for i in batch.rows], device=logits.device)
        task = functional.cross_entropy(logits, targets)
        if self.distillation is None:
            zero = torch.zeros_like(task)
            return Loss(task, zero, zero, task)
        with torch.no_grad():
            teacher_logits, taught = self._taught(batch.task, self.distillation.teachers[batch.task], rows)
        return taught_loss(task, (logits, texts.hidden), (teacher_logits, taught.hidden), texts.mask, self.distillation)

    @torch.no_grad()
    def label_scores(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the labels' logits ``(rows, labels)`` of one task's texts under a prompt ``(l, d)`` or none."""
        context = Context.of(self.backbone, prompt, self.layout, self.entry)
        rows = self._encode(index, texts)
        parts = [self._read(index, rows[i : i + _BATCH], context)[0] for i in range(0, len(rows), _BATCH)]
        return torch.cat(parts).cpu().numpy().astype(np.float32)

    def _taught(self, index: int, teacher: Teacher, rows: list[Encoded]) -> tuple[Tensor, Reading]:
        context = Context.of(self.backbone, teacher.prompt, teacher.layout, teacher.entry)
        if teacher.head is None:
            return self._read(index, rows, context)
        texts = read(self.backbone, rows, context)
        return teacher.answers(texts.first, np.arange(len(self.tasks[index].labels))), texts

    def _read(self, index: int, rows: list[Encoded], context: Context) -> tuple[Tensor, Reading]:
        """Return the labels' logits ``(rows, labels)``, and what the model makes of the texts."""
        cloze, texts = self._clozes[index], read(self.backbone, rows, context)
        device = texts.hidden.device
        places = [mask_place(row, self._mask.id, cloze.template, self._mask.token) for row in rows]
        words = torch.from_numpy(cloze.words.tokens).to(device)
        logits = self._head.at(texts.hidden, torch.tensor(places, device=device)[:, None], words)[:, 0].float()
        owners = functional.one_hot(torch.from_numpy(cloze.words.owners).to(device), cloze.words.labels).float()
        return logits @ (owners / owners.sum(0)), texts

    def _cloze(self, index: int, label_texts: Sequence[Sequence[str]]) -> _Cloze:
        recipe = self.tasks[index].recipe
        template = recipe.template.replace(PLACEHOLDER, self._mask.token)
        try:
            words = LabelWords.encode(self.backbone.texts, template, self._mask.token, label_texts)
        except InputError as error:
            raise InputError(f"{recipe.name}: {error}") from error
        return _Cloze(template, words)

    def _encode(self, index: int, texts: Sequence[Text]) -> list[Encoded]:
        return [self.backbone.texts.fit(self.template(index), text, self.max_lengths[index]) for text in texts]
