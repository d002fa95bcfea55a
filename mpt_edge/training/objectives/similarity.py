"""What a step minimizes for an encoder: the loss of a task that answers by similarity.

In the prefix layout the prompt of a task runs once a step, not once an example, because it does not
depend on the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.rows import encode
from mpt_edge.training.objectives.classification import ClassificationObjective
from mpt_edge.training.objectives.encoder_reading import (
    TRAINING_SCALE,
    Context,
    EncoderOutput,
    LabelTexts,
    read,
    similarities,
)
from mpt_edge.training.objectives.objective import Loss, Teacher
from mpt_edge.training.schedule import TaskBatch


class SimilarityObjective(ClassificationObjective):
    """Classification by similarity to label texts, on an encoder; see `TaskObjective`."""

    backbone: EncoderBackbone
    readout = "similarity"

    def _tokenize(self) -> None:
        for recipe in (task.recipe for task in self.tasks):
            if recipe.cut != "right":
                raise InputError(
                    f"{recipe.name}: a task that answers by similarity reads a text from its beginning; leave cut out "
                    "of the recipe, or use readout = 'mask' or a model that writes."
                )
        self.train_rows = [self._encode(i, task.train.texts) for i, task in enumerate(self.tasks)]
        sizes = zip(self.label_texts, self.max_lengths, strict=True)
        self._labels = [LabelTexts.encode(self.backbone, texts, length) for texts, length in sizes]

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        """Return the loss of one task's batch, over all its labels or a sample of them.

        Args:
            prompt: the task's prompt, ``(l, d)``, with gradient; None where the backbone itself is adapted.
            batch: one task and some of its training rows.
            rng: draws the labels and their texts.
        """
        rows = [self.train_rows[batch.task][i] for i in batch.rows]
        gold = self._gold(batch.task, batch.rows)
        # Parts of a batch are compared with the same labels as the whole: those that it has, and some others.
        present = gold if batch.whole is None else self._gold(batch.task, batch.whole)
        label_rows, labels = self._labels[batch.task].sample(present, rng)
        logits, texts = self._read(prompt, rows, label_rows)
        targets = torch.tensor([int(np.flatnonzero(labels == label)[0]) for label in gold], device=logits.device)
        task = functional.cross_entropy(logits, targets)

        def taught(teacher: Teacher) -> tuple[Tensor, Tensor]:
            return self._taught(teacher, rows, label_rows, labels)

        return self._with_teacher(task, batch, (logits, texts.hidden), texts.mask, taught)

    def _gold(self, index: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of training rows."""
        return np.array([self.tasks[index].train.labels[i] for i in rows], np.int64)

    def label_scores(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return cosine similarities ``(rows, labels)`` of one task's texts under a prompt ``(l, d)`` or none."""
        context = Context.of(self.backbone, prompt, self.layout, self.entry)
        return similarities(self.backbone, context, self._encode(index, texts), self._labels[index])

    def _read(self, prompt: Tensor | None, rows: list[Encoded], labels: list[Encoded]) -> tuple[Tensor, EncoderOutput]:
        return self._compared(Context.of(self.backbone, prompt, self.layout, self.entry), rows, labels)

    def _taught(
        self, teacher: Teacher, rows: list[Encoded], label_rows: list[Encoded], labels: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return a teacher's logits ``(rows, labels)``, and its hidden states of the texts ``(rows, tokens, d)``."""
        context = Context.of(self.backbone, teacher.prompt, teacher.layout, teacher.entry)
        if teacher.head is None:
            logits, texts = self._compared(context, rows, label_rows)
            return logits, texts.hidden
        texts = read(self.backbone, rows, context)
        return teacher.answers(texts.first, labels), texts.hidden

    def _compared(self, context: Context, rows: list[Encoded], labels: list[Encoded]) -> tuple[Tensor, EncoderOutput]:
        both = read(self.backbone, [*rows, *labels], context)
        texts, named = both.part(slice(len(rows))), both.embeddings[len(rows) :]
        with torch.autocast(named.device.type, enabled=False):  # cosines need float32's digits
            return TRAINING_SCALE * texts.embeddings @ named.T, texts

    def _encode(self, index: int, texts: Sequence[Text]) -> list[Encoded]:
        """Tokenize texts of a task, cut at the end as the device does for this readout."""
        return encode(self.backbone.texts, self.tasks[index].recipe, texts, self.max_lengths[index])
