"""Choice: the likeliest of a closed set of label texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.heads.base import ComposedTask, Request, predict
from mpt_edge.inference.heads.generative_head import GenerativeHead, GenerativeReader, Opener, Room
from mpt_edge.inference.heads.labels import check_tokens


class Choice(GenerativeHead):
    """Mean log-likelihood of each label's first text after the input."""

    name = "choice"
    has_label_texts = True
    texts_per_label = 1

    def __init__(self, task: TaskFile, reader: GenerativeReader, choices: Sequence[Sequence[int]]) -> None:
        """Keep the task file, the model and the tokens of each label's text."""
        super().__init__(task, reader)
        self.choices = choices

    @classmethod
    def prepare(cls, task: ComposedTask, reader: GenerativeReader) -> Self:
        """Tokenize the label texts; see `GenerativeHead.prepare`."""
        choices = reader.texts.continuations([group[0] for group in task.file.label_texts])
        check_tokens(task.file, range(len(choices)), choices)
        return cls(task.file, reader, choices)

    def room(self, options: GenerationOptions) -> Room:  # noqa: ARG002
        """Return the length of the longest label."""
        longest = max(map(len, self.choices))
        return Room(longest, "tokens of the longest label", "train the task with shorter label texts")

    def width(self, options: GenerationOptions) -> int:  # noqa: ARG002
        """Return one row per label."""
        return len(self.choices)

    def answer(self, requests: Sequence[Request], open_requests: Opener) -> list[Prediction]:
        """Return each request's likeliest label; see `GenerativeHead.answer`."""
        heads = [request.task.head for request in requests]
        scores = likelihoods(*open_requests(), [head.choices for head in heads if isinstance(head, Choice)])
        return [
            predict(request.task.file, score.astype(np.float32), request.row)
            for request, score in zip(requests, scores, strict=True)
        ]
