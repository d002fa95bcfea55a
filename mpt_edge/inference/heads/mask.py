"""Mask: label words at the mask of a masked-LM head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.formats.manifest import Manifest, MaskToken
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction
from mpt_edge.inference.heads.base import ComposedTask, predict
from mpt_edge.inference.heads.encoder_head import EncoderHead, EncoderReader, TextStates, WordQuery
from mpt_edge.inference.heads.labels import check_tokens
from mpt_edge.inference.heads.verbalizer import Verbalizer, mask_position
from mpt_edge.inference.text import Encoded


class Mask(EncoderHead):
    """Mean logit of each label's words at the template's mask."""

    name = "mask"
    has_label_texts = True
    asks_words = True
    keeps_template = True

    def __init__(self, task: TaskFile, words: Verbalizer, token: MaskToken) -> None:
        """Keep the task file, its label words and the mask token."""
        super().__init__(task)
        self.words, self.token = words, token

    @classmethod
    def misfits(cls, manifest: Manifest) -> Iterator[str]:
        """Yield the lack of a masked-LM head too; see `HeadType.misfits`."""
        yield from super().misfits(manifest)
        if manifest.mask is None:
            yield "kind of model than this one, which has no masked-LM head"

    @classmethod
    def prepare(cls, task: ComposedTask, reader: EncoderReader) -> Self:
        """Look up the label words; see `EncoderHead.prepare`."""
        file, mask = task.file, reader.manifest.mask
        assert mask is not None  # `misfits` refuses other bundles
        words = Verbalizer.encode(reader.texts, file.template or "", mask.token, file.label_texts)
        check_tokens(file, words.owners.tolist(), [[token] for token in words.tokens.tolist()])
        return cls(file, words, mask)

    def word_query(self, rows: Sequence[Encoded]) -> WordQuery:
        """Ask for all label words at each row's mask."""
        positions = [mask_position(row, self.token, self.task.template or "") for row in rows]
        return WordQuery(np.array(positions, np.int64), self.words.tokens)

    def scores(self, states: TextStates | Floats) -> Floats:
        """Return the labels' logits ``(labels,)``."""
        assert not isinstance(states, TextStates)
        return self.words.scores(states)

    def answer(self, scores: Floats, row: Encoded) -> Prediction:
        """Return the label with the likeliest words."""
        return predict(self.task, scores, row)
