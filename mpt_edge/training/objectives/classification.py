"""Base of objectives that score every label of a task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Text
from mpt_edge.training.data.examples import Examples
from mpt_edge.training.data.recipes import Recipe
from mpt_edge.training.objectives.metrics import (
    CLASSIFICATION_METRICS,
    calibrate_scale,
    classification_metrics,
    fit_threshold,
)
from mpt_edge.training.objectives.objective import Evaluation, TaskObjective

#: Longest reference example in characters, where shorter ones are left: task files hold it.
_MAX_CHARACTERS = 160


class ClassificationObjective(TaskObjective):
    """An objective whose answer is the label with the highest score."""

    metrics = CLASSIFICATION_METRICS

    @classmethod
    def problems(cls, recipe: Recipe) -> Iterator[str]:
        """Yield entries of a recipe that do not fit; see `TaskObjective.problems`."""
        yield from super().problems(recipe)
        if recipe.stop:
            yield "stop ends generated text, and this task generates none; leave it out"

    @abstractmethod
    def label_scores(self, prompt: Tensor | None, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Return the scores ``(texts, labels)`` under a prompt ``(l, d)`` or ``(l, layers, d)``, or none."""

    def score(self, prompt: Tensor | None, examples: Examples) -> float:
        """Return the recipe's metric on examples."""
        return float(self._measure(prompt, examples)[self.recipe.metric])

    def evaluate(self, prompt: Tensor) -> Evaluation:
        """Measure the finished task; see `TaskObjective.evaluate`."""
        validation = self.data.validation
        scores = self.label_scores(prompt, validation.texts)
        scale = calibrate_scale(scores, validation)
        chosen = _short_text(validation.texts)
        probs = softmax(scores[chosen] * scale)
        reference_example = {
            "text": validation.texts[chosen],
            "label": self.data.labels[int(probs.argmax())],
            "score": round(float(probs.max()), 5),
        }
        metrics = self._measure_splits(lambda examples: self._measure(prompt, examples))
        threshold = fit_threshold(softmax(scores * scale), validation)
        return Evaluation(reference_example, metrics, scale, threshold, self._generation())

    def _generation(self) -> Mapping[str, Any]:
        """Return the task file's generation entries; none for encoders."""
        return {}

    def _measure(self, prompt: Tensor | None, examples: Examples) -> dict[str, Any]:
        return classification_metrics(self.label_scores(prompt, examples.texts).argmax(1), examples)


def _short_text(texts: Sequence[Text]) -> int:
    """Return the index of the first text that is not long, or of the shortest."""
    lengths = [len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts]
    return next((i for i, length in enumerate(lengths) if length <= _MAX_CHARACTERS), int(np.argmin(lengths)))
