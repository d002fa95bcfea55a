"""Tokens: a saved head that labels each token."""

from __future__ import annotations

from mpt_edge._arrays import Floats
from mpt_edge.inference.answers import Tagging, TokenLabel
from mpt_edge.inference.heads.base import Display
from mpt_edge.inference.heads.encoder_head import LinearHeadType
from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.text import Encoded


class Tokens(LinearHeadType):
    """PEFT's token classifier; special tokens get no label."""

    name = "tokens"
    answer_type = Tagging
    display = Display.PHRASE
    needs_offsets = True

    @classmethod
    def outputs(cls, labels: int) -> int:
        """Return one output per label."""
        return labels

    def answer(self, scores: Floats, row: Encoded) -> Tagging:
        """Return each token's label from logits ``(tokens, labels)``."""
        texts = (row.text,) if isinstance(row.text, str) else row.text
        probs = softmax(scores * self.task.scale)
        tokens = tuple(
            TokenLabel(
                text=texts[offset.sequence][offset.start : offset.end],
                start=offset.start,
                end=offset.end,
                label=self.task.labels[int(token.argmax())],
                score=float(token.max()),
            )
            for token, offset in zip(probs, row.offsets, strict=True)
            if offset.sequence >= 0
        )
        return Tagging(task=self.task.name, tokens=tokens, **row.notes)
