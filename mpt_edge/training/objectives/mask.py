"""Training objective of the mask head type, on encoders with a masked-LM head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.errors import InputError, UnsupportedModelError
from mpt_edge.inference.heads import Mask
from mpt_edge.inference.heads.verbalizer import PLACEHOLDER, Verbalizer, mask_position
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.classification import ClassificationObjective
from mpt_edge.training.objectives.distillation import Loss, Teacher
from mpt_edge.training.objectives.encoder_reading import Context, EncoderOutput, read
from mpt_edge.training.objectives.objective import in_batches
from mpt_edge.training.schedule import TaskBatch


class MaskObjective(ClassificationObjective):
    """Classification by the label words' logits at the template's mask; see `TaskObjective`."""

    head_type = Mask
    backbone: EncoderBackbone

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit; see `TaskObjective.problems`."""
        yield from super().problems(recipe)
        if (recipe.template or "").count(PLACEHOLDER) != 1:
            example = f"'{{text}} It was {PLACEHOLDER}.'"
            yield f"head_type 'mask' needs the template to have {PLACEHOLDER} once, as in {example}"
        if recipe.label_examples:
            yield "head_type 'mask' reads words at a mask; leave label_examples out"

    @property
    def template(self) -> str:
        """Template of the task file, with the tokenizer's own mask."""
        return (self.recipe.template or "").replace(PLACEHOLDER, self._mask.token)

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the cross entropy of the labels; see `TaskObjective.loss`."""
        rows = [self.train_rows[i] for i in batch.rows]
        logits, texts = self._read(rows, Context.of(self.backbone, prompt, self.placement))
        target = torch.tensor([self.data.train.labels[i] for i in batch.rows], device=logits.device)
        task = functional.cross_entropy(logits, target)

        def teach(teacher: Teacher) -> tuple[Tensor, Tensor]:
            return self._teach(teacher, rows)

        return self._with_teacher(task, batch, (logits, texts.hidden), texts.mask, teach)

    @torch.no_grad()
    def label_scores(self, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the labels' logits ``(texts, labels)``; see `ClassificationObjective.label_scores`."""
        context = Context.of(self.backbone, prompt, self.placement)
        parts = [self._read(rows, context)[0] for rows in in_batches(self._encode(texts))]
        return torch.cat(parts).cpu().numpy().astype(np.float32)

    def _tokenize(self) -> None:
        mask, head = self.backbone.mask, self.backbone.model.masked
        if mask is None or head is None:
            raise UnsupportedModelError(
                f"{self.backbone.id} has no masked-LM head, which head_type = 'mask' needs; pass a checkpoint saved "
                "with one, or leave head_type out of the recipe."
            )
        self._mask, self._head = mask, head
        try:
            self._words = Verbalizer.encode(self.backbone.texts, self.template, mask.token, self.label_texts)
        except InputError as error:
            raise InputError(f"{self.recipe.name}: {error}") from error
        self.train_rows = self._encode(self.data.train.texts)

    def _teach(self, teacher: Teacher, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Return a teacher's logits ``(rows, labels)``, and its hidden states of the texts ``(rows, tokens, d)``."""
        context = Context.of(self.backbone, teacher.prompt, teacher.placement)
        if teacher.head is None:
            logits, texts = self._read(rows, context)
            return logits, texts.hidden
        texts = read(self.backbone, rows, context)
        return teacher.answers(texts.first, np.arange(len(self.data.labels))), texts.hidden

    def _read(self, rows: Sequence[Encoded], context: Context) -> tuple[Tensor, EncoderOutput]:
        """Return the labels' logits ``(rows, labels)``, and the texts' hidden states."""
        texts = read(self.backbone, rows, context)
        device = texts.hidden.device
        positions = torch.tensor([mask_position(row, self._mask, self.template) for row in rows], device=device)
        words = torch.from_numpy(self._words.tokens).to(device)
        logits = self._head.at(texts.hidden, positions[:, None], words)[:, 0].float()
        owners = functional.one_hot(torch.from_numpy(self._words.owners).to(device), self._words.labels).float()
        return logits @ (owners / owners.sum(0)), texts
