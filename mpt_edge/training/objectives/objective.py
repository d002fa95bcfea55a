"""Base of the training objectives: one task, its loss on a batch, and its metrics (paper section 3.2)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.errors import InputError
from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.placement import Placement
from mpt_edge.inference.heads.labels import label_problem
from mpt_edge.inference.text import Encoded, Text
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge.training.data.examples import Examples, TaskData
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.distillation import Distillation, Loss, Teacher, distilled_loss
from mpt_edge.training.schedule import TaskBatch

#: Rows read at once without gradient.
_ROWS = 32

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Evaluation:
    """Results of a finished task, for its file."""

    reference_example: Mapping[str, Any]
    """An input with its answer."""
    metrics: Mapping[str, Any]
    """Metrics by split: validation and, where it was read, test."""
    scale: float = 1.0
    """Factor on scores before the softmax."""
    threshold: float | None = None
    """Probability below which a label is unsure."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Entries of `GenerationOptions`, for generative models."""


class TaskObjective(ABC):
    """One task, tokenized once, with its loss and its metrics.

    A subclass trains one head type, and is a row of `mpt_edge.training.objectives.table`.
    """

    head_type: ClassVar[type[HeadType]]
    """Head type of the trained task."""
    metrics: ClassVar[tuple[str, ...]]
    """Metrics that a recipe may name."""
    longer_text: ClassVar[str] = ""
    """How a recipe leaves more room to the input, as part of a sentence."""

    backbone: AnyBackbone
    train_rows: list[Encoded]
    """Tokenized training texts."""

    def __init__(
        self,
        backbone: AnyBackbone,
        data: TaskData,
        label_texts: Sequence[Sequence[str]],
        distillation: Distillation | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Tokenize all that a training step reads.

        Args:
            backbone: the frozen model.
            data: the task.
            label_texts: each label's texts; none for a task without labels.
            distillation: the task's teacher; None for the task's loss alone.
            placement: layout and position of the prompt; None for the prefix layout at the first layer.

        Raises:
            InputError: a text has no tokens, or a label's text cannot be used or told from another's.
            UnsupportedModelError: the backbone lacks the head that the task needs.
        """
        self.backbone, self.data, self.label_texts, self.distillation = backbone, data, label_texts, distillation
        self.placement = placement or Placement()
        self.max_length = min(data.recipe.max_length, backbone.max_length)
        self.chat = backbone.chat_frame(data.recipe.system) if data.recipe.is_chat else None
        self._check_labels()
        self._tokenize()

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuse a recipe that this head type cannot be trained with. Raises InputError."""
        problem = next(cls.problems(recipe), None)
        if problem is not None:
            raise InputError(f"{recipe.name}: {problem}.")

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit the head type, each with its fix."""
        if recipe.metric not in cls.metrics:
            yield f"metric {recipe.metric!r} is unknown; use one of {', '.join(cls.metrics)}"

    @property
    def recipe(self) -> Recipe:
        """Recipe of the task."""
        return self.data.recipe

    @property
    def template(self) -> str | None:
        """Template of the task file."""
        return self.recipe.text_template

    @property
    def file_label_texts(self) -> Sequence[Sequence[str]]:
        """Label texts of the task file."""
        return self.label_texts

    @property
    def new_tokens(self) -> int:
        """Maximum number of tokens that the model reads after the input; 0 for encoders."""
        return 0

    @property
    def train_lengths(self) -> NDArray[np.int64]:
        """Tokens of each training row, with those of its answer where the model reads them."""
        return np.array([self._counts(row)[1] for row in range(len(self.train_rows))], np.int64)

    def example_tokens(self, row: int) -> list[int]:
        """Return the tokens of a training row, with those of its answer where the model reads them."""
        return list(self.train_rows[row].ids)

    def parts(self, rows: NDArray[np.int64], max_rows: int | None) -> Iterator[NDArray[np.int64]]:
        """Split rows of a batch into those of each forward pass.

        Args:
            rows: indices of training rows, possibly none.
            max_rows: maximum rows of a pass; None for no limit.
        """
        size = max_rows or max(1, len(rows))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def distilled(self, distillation: Distillation) -> Self:
        """Return the same task with a teacher."""
        result = copy.copy(self)
        result.distillation = distillation
        return result

    def as_teacher(self) -> TaskObjective:
        """Return the objective of a teacher of this task: the task itself, where a prompt alone can answer it."""
        return self

    def identity(self) -> dict[str, Any]:
        """Return all that a checkpoint depends on, as JSON has it. The test split is not part of it."""
        return {
            "backbone": self.backbone.fingerprint,
            "recipe": asdict(self.recipe),
            "chat": self.chat and asdict(self.chat),
            "labels": self.data.labels,
            "label_texts": self.label_texts,
            "train": vars(self.data.train),
            "validation": vars(self.data.validation),
            "placement": asdict(self.placement),
            "distillation": self.distillation and self.distillation.identity(),
        }

    def _check_labels(self) -> None:
        """Refuse labels that the model cannot tell apart. Raises InputError."""
        fix = "use other words under [labels], which this model's tokenizer knows and tells apart"
        texts, labels, limit = self.backbone.texts, self.data.labels, self.max_length
        problem = label_problem(texts, self.head_type, labels, self.label_texts, max_length=limit, fix=fix)
        if problem is not None:
            raise InputError(f"{self.recipe.name}: {problem}")

    @abstractmethod
    def _tokenize(self) -> None:
        """Set `train_rows`, and all else that a training step reads."""

    @abstractmethod
    def loss(self, prompt: Tensor | None, batch: TaskBatch, rng: np.random.Generator) -> Loss:
        """Return the loss of a batch under a prompt ``(l, d)`` or ``(l, layers, d)``, or none.

        For a part of a batch, this is its share: losses and gradients of the parts add up to the batch's.
        """

    @abstractmethod
    def score(self, prompt: Tensor | None, examples: Examples) -> float:
        """Return the recipe's metric on examples."""

    @abstractmethod
    def evaluate(self, prompt: Tensor) -> Evaluation:
        """Measure the finished task under its prompt."""

    def _measure_splits(self, measure: Callable[[Examples], dict[str, Any]]) -> dict[str, Any]:
        """Return the metrics of the splits that were read."""
        splits = {"validation": self.data.validation, "test": self.data.test}
        return {name: measure(examples) for name, examples in splits.items() if examples is not None}

    def _encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Tokenize texts, each truncated so that the template stays whole."""
        template, length, side = self.template, self.max_length, self.recipe.truncation_side
        return [self.backbone.texts.fit(template, text, length, side, self.chat) for text in texts]

    def _counts(self, row: int) -> tuple[int, int]:
        """Return how many answers and how many hidden states a training row adds to the means of the loss."""
        return 1, len(self.train_rows[row].ids)

    def _with_teacher(
        self,
        task: Tensor,
        batch: TaskBatch,
        student: tuple[Tensor, Tensor],
        mask: Tensor,
        teach: Callable[[Teacher], tuple[Tensor, Tensor]],
    ) -> Loss:
        """Return the task's loss with its teacher's, or alone where there is none.

        Args:
            task: the task's loss, a mean over the batch's answers.
            batch: the batch, or a part of one, whose means then count by its share.
            student: logits ``(rows, classes)`` and hidden states ``(rows, tokens, d)``.
            mask: 1 for tokens whose hidden states count, ``(rows, tokens)``.
            teach: returns the same two of a teacher; called without gradient.
        """
        if self.distillation is None:
            return self._without_teacher(task, batch)
        with torch.no_grad():
            teacher = teach(self.distillation.teacher)
        return distilled_loss(task, student, teacher, mask, self.distillation, self._shares(batch))

    def _without_teacher(self, task: Tensor, batch: TaskBatch) -> Loss:
        """Return the task's loss alone; see `_with_teacher`."""
        zero, share = torch.zeros_like(task), self._shares(batch)[0]
        return Loss(task * share, zero, zero, task * share)

    def _shares(self, batch: TaskBatch) -> tuple[float, float]:
        """Return the batch's shares of the answers and of the hidden states of the whole batch it is part of."""
        if batch.whole is None:
            return 1.0, 1.0
        own, whole = (np.sum([self._counts(i) for i in rows], 0) for rows in (batch.rows, batch.whole))
        answers, states = own / whole
        return float(answers), float(states)


def in_batches(rows: Sequence[_Row], width: int = 1) -> list[Sequence[_Row]]:
    """Split rows into batches that are read at once without gradient.

    Args:
        rows: the rows.
        width: rows that the model reads for each of them.
    """
    size = max(1, _ROWS // width)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
