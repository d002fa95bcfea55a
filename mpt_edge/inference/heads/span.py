"""Span: a saved head for start and end of an answer in the second text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.head_types import TaskContents
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference import answers
from mpt_edge.inference.heads.base import Display
from mpt_edge.inference.heads.encoder_head import LinearHeadType
from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Encoded

#: Maximum answer length in tokens, as in BERT's script for SQuAD.
MAX_ANSWER_TOKENS = 30


class Span(LinearHeadType):
    """PEFT's question answering: the likeliest passage of the second text."""

    name = "span"
    min_labels = 0
    answer_type = answers.Span
    display = Display.PHRASE
    needs_offsets = True

    @classmethod
    def outputs(cls, labels: int) -> int:  # noqa: ARG003
        """Return two outputs: start and end."""
        return 2

    @classmethod
    def problems(cls, task: TaskContents) -> Iterator[str]:
        """Yield single texts as a problem too; see `HeadType.problems`."""
        yield from super().problems(task)
        if task.inputs != Inputs.PAIR:
            yield "it answers from a second text, and does not read pairs"

    def answer(self, scores: Floats, row: Encoded) -> answers.Span:
        """Return the likeliest passage from logits ``(tokens, 2)`` of its start and end."""
        offsets = row.offsets
        inside = np.flatnonzero([offset.sequence == 1 for offset in offsets])
        if not len(inside):  # the question alone fills the task's length
            return answers.Span(task=self.task.name, text="", score=0.0, **row.notes)
        starts, ends = softmax(scores[inside].T)
        # No answer ends before its start, or is longer than MAX_ANSWER_TOKENS.
        probs = np.triu(np.outer(starts, ends))
        probs -= np.triu(probs, MAX_ANSWER_TOKENS)
        first, last = divmod(int(probs.argmax()), len(inside))
        start, end = offsets[int(inside[first])].start, offsets[int(inside[last])].end
        return answers.Span(
            task=self.task.name,
            text=row.text[1][start:end],
            score=float(probs[first, last]),
            start=start,
            end=end,
            **row.notes,
        )
