"""Classifier: a saved head on the state at the first position."""

from __future__ import annotations

from typing import Self

from mpt_edge._arrays import Floats
from mpt_edge.errors import MismatchError
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.heads.base import ComposedTask, predict
from mpt_edge.inference.heads.encoder_head import EncoderReader, LinearHeadType, TextStates
from mpt_edge.inference.text import Encoded


class Classifier(LinearHeadType):
    """PEFT's sequence classifier. In its joint layout, the first position is a virtual token."""

    name = "classifier"

    @classmethod
    def outputs(cls, labels: int) -> int:
        """Return one output per label."""
        return labels

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        """Take the head, of a task in the joint layout; see `EncoderHead.prepare`."""
        if not task.placement.is_joint:
            raise MismatchError(
                f"the head of {task.file.name!r} reads the first virtual token, which sees no text in the prefix "
                "layout; use it in the joint layout."
            )
        return super().prepare(task, reader)

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the logits ``(labels,)``."""
        assert isinstance(states, TextStates)
        return self.head(states.first)

    def answer(self, scores: Floats, row: Encoded) -> Prediction:
        """Return the likeliest label."""
        return predict(self.task, scores, row)
