"""Embedding: the pooled vector itself."""

from __future__ import annotations

from typing import Self

from mpt_edge._arrays import Floats
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference import answers
from mpt_edge.inference.heads.base import ComposedTask, Display
from mpt_edge.inference.heads.encoder_head import EncoderHead, EncoderReader, TextStates
from mpt_edge.inference.numerics import unit
from mpt_edge.inference.text import Encoded


class Embedding(EncoderHead):
    """The text's unit vector under the task's prompt."""

    name = "embedding"
    min_labels = 0
    answer_type = answers.Embedding
    display = Display.PHRASE

    def __init__(self, task: TaskFile, *, normalize: bool = True) -> None:
        """Keep the task file, and whether vectors are scaled to length one."""
        super().__init__(task)
        self.normalize = normalize

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:  # noqa: ARG003
        """Prepare nothing; see `EncoderHead.prepare`."""
        return cls(task.file)

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the pooled embedding ``(d,)``."""
        assert isinstance(states, TextStates)
        return unit(states.pooled) if self.normalize else states.pooled

    def answer(self, scores: Floats, row: Encoded) -> answers.Embedding:
        """Return the vector."""
        return answers.Embedding(task=self.task.name, vector=scores, **row.notes)
