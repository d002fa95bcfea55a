"""How answers are made from what the backbone and a head computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction, Span, Tagging, TokenLabel
from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Text

#: Longest answer that is read out of a text, in tokens, as in BERT's script for SQuAD.
LONGEST_ANSWER = 30


@dataclass(frozen=True)
class TokenSpan:
    """Where a token stands: in which text (-1 for a special token), and from which character to which."""

    sequence: int
    start: int
    end: int


def classify(task: TaskFile, logits: Floats, *, truncated: bool, cosines: bool = False) -> Prediction:
    """Return the likeliest label of logits ``(labels,)``, or of cosine similarities to them."""
    chances = softmax(logits * task.scale)
    best = int(logits.argmax())
    return Prediction(
        task=task.name,
        label=task.labels[best],
        score=float(chances[best]),
        scores=dict(zip(task.labels, map(float, chances), strict=True)),
        similarities=dict(zip(task.labels, map(float, logits), strict=True)) if cosines else {},
        truncated=truncated,
    )


def tag(task: TaskFile, logits: Floats, text: Text, places: Sequence[TokenSpan], *, truncated: bool) -> Tagging:
    """Return each token's label from logits ``(tokens, labels)``; special tokens have none."""
    texts = (text,) if isinstance(text, str) else text
    chances = softmax(logits * task.scale)
    tokens = tuple(
        TokenLabel(
            text=texts[place.sequence][place.start : place.end],
            start=place.start,
            end=place.end,
            label=task.labels[int(row.argmax())],
            score=float(row.max()),
        )
        for row, place in zip(chances, places, strict=True)
        if place.sequence >= 0
    )
    return Tagging(
        task=task.name,
        label=" ".join(token.label for token in tokens),
        score=min((token.score for token in tokens), default=0.0),
        truncated=truncated,
        tokens=tokens,
    )


def extract(task: TaskFile, logits: Floats, text: Text, places: Sequence[TokenSpan], *, truncated: bool) -> Span:
    """Return the likeliest answer in the second text from logits ``(tokens, 2)`` of its start and its end."""
    inside = np.flatnonzero([place.sequence == 1 for place in places])
    if not len(inside):  # the question alone fills the task's length
        return Span(task.name, "", 0.0, truncated=truncated)
    starts, ends = softmax(logits[inside].T)
    # No answer ends in front of its start, or is longer than LONGEST_ANSWER tokens.
    chances = np.triu(np.outer(starts, ends))
    chances -= np.triu(chances, LONGEST_ANSWER)
    first, last = divmod(int(chances.argmax()), len(inside))
    start, end = places[int(inside[first])].start, places[int(inside[last])].end
    return Span(
        task=task.name,
        label=text[1][start:end],
        score=float(chances[first, last]),
        truncated=truncated,
        start=start,
        end=end,
    )
