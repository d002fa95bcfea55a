"""What a step minimizes for an encoder that answers at a mask: which label's words are likeliest there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.formats.manifest import Mask
from mpt_edge.inference.masking import PLACEHOLDER, Verbalizer, mask_place
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.masked_lm import MaskedLMHead
from mpt_edge.training.objectives.classification import ClassificationObjective
from mpt_edge.training.objectives.encoder_reading import Context, EncoderOutput, read
from mpt_edge.training.objectives.objective import Loss, Teacher, in_batches
from mpt_edge.training.schedule import TaskBatch


@dataclass(frozen=True)
class _Cloze:
    """A task's template with the tokenizer's own mask, and its label words."""

    template: str
    words: Verbalizer


class MaskObjective(ClassificationObjective):
    """Classification by label words at a mask, on an encoder with a masked-LM head; see `TaskObjective`."""

    backbone: EncoderBackbone
    readout = "mask"

    def _tokenize(self) -> None:
        backbone = self.backbone
        if backbone.mask is None or backbone.model.masked is None:
            raise UnsupportedModelError(
                f"{backbone.id} has no masked-LM head, which readout = 'mask' needs; pass a checkpoint saved with one, "
                "or leave readout out of the recipe."
            )
        self._mask: Mask = backbone.mask
        self._head: MaskedLMHead = backbone.model.masked
        self._clozes = [self._cloze(i, texts) for i, texts in enumerate(self.label_texts)]
        self.train_rows = [self._encode(i, task.train.texts) for i, task in enumerate(self.tasks)]

    def template(self, index: int) -> str:
        """Return the template as task files have it, with the tokenizer's own mask."""
        return self._clozes[index].template

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the loss of one task's batch; see `TaskObjective.loss`."""
        rows = [self.train_rows[batch.task][i] for i in batch.rows]
        logits, texts = self._read(batch.task, rows, Context.of(self.backbone, prompt, self.layout, self.entry))
        targets = torch.tensor([self.tasks[batch.task].train.labels[i] for i in batch.rows], device=logits.device)
        task = functional.cross_entropy(logits, targets)

        def taught(teacher: Teacher) -> tuple[Tensor, Tensor]:
            return self._taught(batch.task, teacher, rows)

        return self._with_teacher(task, batch, (logits, texts.hidden), texts.mask, taught)

    @torch.no_grad()
    def label_scores(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the labels' logits ``(rows, labels)`` of one task's texts under a prompt ``(l, d)`` or none."""
        context = Context.of(self.backbone, prompt, self.layout, self.entry)
        parts = [self._read(index, rows, context)[0] for rows in in_batches(self._encode(index, texts))]
        return torch.cat(parts).cpu().numpy().astype(np.float32)

    def _taught(self, index: int, teacher: Teacher, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Return a teacher's logits ``(rows, labels)``, and its hidden states of the texts ``(rows, tokens, d)``."""
        context = Context.of(self.backbone, teacher.prompt, teacher.layout, teacher.entry)
        if teacher.head is None:
            logits, texts = self._read(index, rows, context)
            return logits, texts.hidden
        texts = read(self.backbone, rows, context)
        return teacher.answers(texts.first, np.arange(len(self.tasks[index].labels))), texts.hidden

    def _read(self, index: int, rows: Sequence[Encoded], context: Context) -> tuple[Tensor, EncoderOutput]:
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
            words = Verbalizer.encode(self.backbone.texts, template, self._mask.token, label_texts)
        except InputError as error:
            raise InputError(f"{recipe.name}: {error}") from error
        return _Cloze(template, words)
