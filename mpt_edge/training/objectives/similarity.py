"""Training objective of the similarity head type, on encoders.

Texts and label texts are read under the same prompt, so the task stays u and v. A label with several
texts is trained on one of them at a time, and answers by the mean of their unit embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.taskfile import Side
from mpt_edge.inference.heads import Similarity
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.data.examples import encode
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.classification import ClassificationObjective
from mpt_edge.training.objectives.distillation import Loss, Teacher
from mpt_edge.training.objectives.encoder_reading import Context, EncoderOutput, embed_all, read
from mpt_edge.training.objectives.label_texts import LabelTexts
from mpt_edge.training.schedule import TaskBatch

#: Factor on cosine similarities before the softmax in training.
TRAINING_SCALE = 20.0


class SimilarityObjective(ClassificationObjective):
    """Classification by cosine similarity to label texts; see `TaskObjective`."""

    head_type: ClassVar[type[HeadType]] = Similarity
    backbone: EncoderBackbone

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit; see `TaskObjective.problems`."""
        yield from super().problems(recipe)
        if recipe.truncation_side is not Side.RIGHT:
            yield (
                "a task that answers by similarity reads a text from its beginning; leave truncation_side out of the "
                "recipe, or use head_type = 'mask' or a generative model"
            )

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        """Return the loss over all labels or a sample of them; see `TaskObjective.loss`.

        Args:
            prompt: the task's prompt, with gradient; None where the backbone itself is adapted.
            batch: training examples.
            rng: draws the labels and their texts.
        """
        rows = [self.train_rows[i] for i in batch.rows]
        target = self._target(batch.rows)
        # All parts of a batch are compared with the same labels.
        present = target if batch.whole is None else self._target(batch.whole)
        label_rows, labels = self._labels.sample(present, rng)
        logits, texts = self._compare(Context.of(self.backbone, prompt, self.placement), rows, label_rows)
        columns = torch.tensor([int(np.flatnonzero(labels == label)[0]) for label in target], device=logits.device)
        task = functional.cross_entropy(logits, columns)

        def teach(teacher: Teacher) -> tuple[Tensor, Tensor]:
            return self._teach(teacher, rows, label_rows, labels)

        return self._with_teacher(task, batch, (logits, texts.hidden), texts.mask, teach)

    def label_scores(self, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return cosine similarities ``(texts, labels)``; see `ClassificationObjective.label_scores`."""
        context = Context.of(self.backbone, prompt, self.placement)
        labels = self._labels.embed(self.backbone, context)
        similarities = embed_all(self.backbone, self._encode(texts), context) @ labels.T
        return similarities.cpu().numpy().astype(np.float32)

    def _tokenize(self) -> None:
        self.train_rows = self._encode(self.data.train.texts)
        self._labels = LabelTexts.encode(self.backbone, self.label_texts, self.max_length)

    def _encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Tokenize texts, truncated at the end as the device does for this head type."""
        return encode(self.backbone.texts, self.recipe, texts, self.max_length)

    def _target(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of training examples."""
        return np.array([self.data.train.labels[i] for i in rows], np.int64)

    def _compare(self, context: Context, rows: list[Encoded], labels: list[Encoded]) -> tuple[Tensor, EncoderOutput]:
        """Return scaled cosines ``(rows, labels)``, and the texts' embeddings and states."""
        both = read(self.backbone, [*rows, *labels], context)
        texts, named = both.part(slice(len(rows))), both.embeddings[len(rows) :]
        with torch.autocast(named.device.type, enabled=False):  # cosines need float32's digits
            return TRAINING_SCALE * texts.embeddings @ named.T, texts

    def _teach(
        self, teacher: Teacher, rows: list[Encoded], label_rows: list[Encoded], labels: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return a teacher's logits ``(rows, labels)``, and its hidden states of the texts ``(rows, tokens, d)``."""
        context = Context.of(self.backbone, teacher.prompt, teacher.placement)
        if teacher.head is None:
            logits, texts = self._compare(context, rows, label_rows)
            return logits, texts.hidden
        texts = read(self.backbone, rows, context)
        return teacher.answers(texts.first, labels), texts.hidden
