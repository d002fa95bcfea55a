"""Label vectors: the pooled text against a trained vector of each label, and its bias."""

from __future__ import annotations

from typing import Self

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.heads.base import ComposedTask, predict
from mpt_edge.inference.heads.encoder_head import EncoderHead, EncoderReader, TextStates
from mpt_edge.inference.numerics import unit
from mpt_edge.inference.text import Encoded


class LabelVectorHead(EncoderHead):
    """Product of the text's unit embedding with each label's vector, plus its bias. Selecting a task reads no text."""

    name = "label_vectors"
    has_label_vectors = True

    def __init__(self, task: TaskFile, vectors: Floats, biases: Floats) -> None:
        """Keep the task file, the vectors of its labels ``(labels, d)``, and their biases ``(labels,)``."""
        super().__init__(task)
        self.vectors, self.biases = vectors, biases

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        """Take the vectors out of the file; see `EncoderHead.prepare`."""
        stored = task.file.label_vectors
        assert stored is not None  # a task file without is refused where it is read
        return cls(task.file, stored.dequantize(reader.manifest.hidden_size), stored.biases.astype(np.float32))

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the logits ``(labels,)``."""
        assert isinstance(states, TextStates)
        result: Floats = self.vectors @ unit(states.pooled) + self.biases
        return result

    def answer(self, scores: Floats, row: Encoded) -> Prediction:
        """Return the label of the largest score."""
        return predict(self.task, scores, row)
