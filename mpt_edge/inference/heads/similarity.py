"""Similarity: the pooled text against the label texts, both read under the task's prompt."""

from __future__ import annotations

from typing import Self

from mpt_edge._arrays import Floats
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.heads.base import ComposedTask, predict
from mpt_edge.inference.heads.encoder_head import EncoderHead, EncoderReader, TextStates
from mpt_edge.inference.heads.labels import check_tokens
from mpt_edge.inference.numerics import label_embeddings, unit
from mpt_edge.inference.text import Encoded


class Similarity(EncoderHead):
    """Cosine similarity to each label's mean embedding. The label texts are read once, at selection."""

    name = "similarity"
    has_label_texts = True

    def __init__(self, task: TaskFile, labels: Floats) -> None:
        """Keep the task file and the unit embeddings of its labels, ``(labels, d)``."""
        super().__init__(task)
        self.labels = labels

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        """Embed the label texts; see `EncoderHead.prepare`."""
        file = task.file
        owners = [i for i, group in enumerate(file.label_texts) for _ in group]
        texts = [text for group in file.label_texts for text in group]
        rows = reader.texts.encode(texts, min(file.max_length, reader.manifest.max_length))
        special = reader.texts.special_tokens(pair=False)
        check_tokens(file, owners, [row.ids if len(row.ids) > special else [] for row in rows])
        return cls(file, label_embeddings(reader.embed_under(task, rows), owners, len(file.labels)))

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the cosine similarities ``(labels,)``."""
        assert isinstance(states, TextStates)
        result: Floats = self.labels @ unit(states.pooled)
        return result

    def answer(self, scores: Floats, row: Encoded) -> Prediction:
        """Return the nearest label."""
        return predict(self.task, scores, row, are_cosines=True)
