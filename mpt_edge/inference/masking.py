"""Answers at a mask: where it stands, which words stand for the labels, and what they add up to.

The words are one token each. A label with several words is scored by the mean of their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.inference.text import Encoded, TextEncoder, render

#: What a recipe's template calls the mask; the task file has the tokenizer's own token in its place.
PLACEHOLDER = "{mask}"


@dataclass(frozen=True)
class Verbalizer:
    """The words of all labels of a task.

    Attributes:
        tokens: their token ids, label by label.
        owners: for each token the label it stands for.
        labels: number of labels.
    """

    tokens: NDArray[np.int64]
    owners: NDArray[np.int64]
    labels: int

    @classmethod
    def encode(cls, texts: TextEncoder, template: str, mask: str, groups: Sequence[Sequence[str]]) -> Verbalizer:
        """Look up the words of each label, as they stand where the template has its mask.

        Raises:
            InputError: a word is not one token, or the template has no mask, or several.
        """
        if template.count(mask) != 1:
            raise InputError(f"the template {template!r} must have the mask {mask} once; correct it.")
        flat = [word for group in groups for word in group]
        owners = [label for label, group in enumerate(groups) for _ in group]
        tokens = texts.words(flat, spaced=not template.startswith(mask))
        return cls(np.array(tokens, np.int64), np.array(owners, np.int64), len(groups))

    def scores(self, logits: Floats) -> Floats:
        """Return the labels' logits ``(rows, labels)`` from those of the words ``(rows, words)``."""
        sums = np.zeros((len(logits), self.labels), np.float32)
        np.add.at(sums.T, self.owners, logits.T)
        counts = np.bincount(self.owners, minlength=self.labels)
        return (sums / counts).astype(np.float32)


def mask_place(row: Encoded, mask_id: int, template: str, mask: str) -> int:
    """Return where a row has the template's mask, which a text that holds masks of its own does not hide.

    Args:
        row: what `TextEncoder.fit` made of the template and a text.
        mask_id: the mask's token.
        template: has the mask once.
        mask: the mask as text.
    """
    places = [i for i, token in enumerate(row.ids) if token == mask_id]
    before = render(template[: template.index(mask)], row.text)
    assert isinstance(before, str)
    return places[min(before.count(mask), len(places) - 1)]
