"""Training objective of label vectors, on encoders: one trained vector and bias a label, beside ``u, v``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpt_edge.inference.heads import LabelVectorHead
from mpt_edge.inference.text import Text
from mpt_edge.training.data.examples import Examples
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Loss, Teacher
from mpt_edge.training.objectives.encoder_reading import Context, embed_all, read
from mpt_edge.training.objectives.similarity import TRAINING_SCALE, SimilarityObjective
from mpt_edge.training.schedule import TaskBatch

#: Training examples that a label's texts weigh as much as, in the mean that its vector starts from.
_TEXT_WEIGHT = 4.0


class LabelVectorObjective(SimilarityObjective):
    """Classification by products with label vectors; see `TaskObjective`.

    Label texts are where the vectors start, and what a teacher answers by. The task file has none of them.
    """

    head_type = LabelVectorHead

    _scores_now: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit; see `TaskObjective.problems`."""
        yield from super().problems(recipe)
        if recipe.label_examples:
            yield "label_examples adds label texts, and a task with label vectors keeps none; leave it out"

    @property
    def file_label_texts(self) -> Sequence[Sequence[str]]:
        """No texts: the vectors stand for the labels."""
        return ()

    def as_teacher(self) -> SimilarityObjective:
        """Return the same task with label texts, by which a teacher's prompt answers."""
        return SimilarityObjective(self.backbone, self.data, self.label_texts, None, self.placement)

    def answer_by(self, labels: Callable[[Tensor], Tensor]) -> None:
        """Take the scores ``(texts, labels)`` of unit embeddings from a function, since a trainer changes it."""
        self._scores_now = labels

    @torch.no_grad()
    def embeddings(self, prompt: Tensor | None, examples: Examples) -> Tensor:
        """Return the unit embeddings of examples under a prompt, ``(examples, d)``."""
        return embed_all(self.backbone, self._encode(examples.texts), self._context(prompt))

    @torch.no_grad()
    def label_means(self, prompt: Tensor | None, examples: Examples, embedded: Tensor) -> Tensor:
        """Return the mean unit embedding of each label, ``(labels, d)``: of its examples and of its texts.

        Args:
            prompt: the prompt that the label texts are read under.
            examples: training examples.
            embedded: their unit embeddings under the prompt, ``(examples, d)``.
        """
        texts = self._labels.embed(self.backbone, self._context(prompt)) * _TEXT_WEIGHT
        target = torch.tensor(examples.labels, device=embedded.device)
        sums = texts.index_add(0, target, embedded)
        counts = torch.bincount(target, minlength=len(texts)) + _TEXT_WEIGHT
        return sums / counts[:, None]

    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:  # noqa: ARG002
        """Return the loss over all labels; see `TaskObjective.loss`."""
        rows = [self.train_rows[i] for i in batch.rows]
        texts = read(self.backbone, rows, self._context(prompt))
        with torch.autocast(texts.embeddings.device.type, enabled=False):  # products need float32's digits
            logits = TRAINING_SCALE * self._scores(texts.embeddings)
        target = torch.from_numpy(self._target(batch.rows)).to(logits.device)
        task = functional.cross_entropy(logits, target)

        def teach(teacher: Teacher) -> tuple[Tensor, Tensor]:
            labels = np.arange(len(self.data.labels))
            label_rows, _ = self._labels.sample(labels, np.random.default_rng(0))
            return self._teach(teacher, rows, label_rows, labels)

        return self._with_teacher(task, batch, (logits, texts.hidden), texts.mask, teach)

    def label_scores(self, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the scores ``(texts, labels)``; see `ClassificationObjective.label_scores`."""
        embedded = embed_all(self.backbone, self._encode(texts), self._context(prompt))
        return self._scores(embedded).detach().cpu().numpy().astype(np.float32)

    def _context(self, prompt: Tensor | None) -> Context:
        return Context.of(self.backbone, prompt, self.placement)

    def _scores(self, embeddings: Tensor) -> Tensor:
        """Return the scores ``(texts, labels)`` of unit embeddings ``(texts, d)``."""
        assert self._scores_now is not None, "label vectors are started before they are trained"
        return self._scores_now(embeddings)
