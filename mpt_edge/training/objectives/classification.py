"""What objectives share that score every label of a task: figures, calibration and the reference example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Text
from mpt_edge.training.data.rows import Rows
from mpt_edge.training.objectives.metrics import calibrated_scale, classification_metrics
from mpt_edge.training.objectives.objective import Evaluation, TaskObjective


class ClassificationObjective(TaskObjective):
    """An objective whose answer is the label with the highest score.

    Attributes:
        readout: what task files call the way in which labels are scored.
    """

    readout: str

    @abstractmethod
    def label_scores(self, index: int, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return one task's scores ``(rows, labels)`` of texts under a prompt ``(l, d)`` or none."""

    def score(self, index: int, prompt: Tensor | None, rows: Rows) -> float:
        """Return one task's metric; see `TaskObjective.score`."""
        found = self.label_scores(index, prompt, rows.texts)
        return float(classification_metrics(found.argmax(1), rows)[self.tasks[index].recipe.metric])

    def measured(self, index: int, prompt: Tensor) -> Evaluation:
        """Return what the file of one task says about itself; see `TaskObjective.measured`."""
        data = self.tasks[index]
        found = self.label_scores(index, prompt, data.validation.texts)
        scale = calibrated_scale(found, data.validation)
        metrics = {"validation": classification_metrics(found.argmax(1), data.validation)}
        if data.test is not None:
            answers = self.label_scores(index, prompt, data.test.texts).argmax(1)
            metrics["test"] = classification_metrics(answers, data.test)
        scores = softmax(found[:1] * scale)[0]
        reference_example = {
            "text": data.validation.texts[0],
            "label": data.labels[int(scores.argmax())],
            "score": round(float(scores.max()), 5),
        }
        return Evaluation(self.readout, reference_example, metrics, scale)
