"""Label words at a mask: their tokens, their scores, and the position of the mask.

Each word is one token. A label with several words is scored by the mean of their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpt_edge._arrays import Floats, Ids
from mpt_edge.errors import InputError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.inference.text import Encoded, TextEncoder, render

#: The mask in a recipe's template; the task file has the tokenizer's own token instead.
PLACEHOLDER = "{mask}"


@dataclass(frozen=True)
class Verbalizer:
    """The words of all labels of a task."""

    tokens: Ids
    """Token ids, label by label, ``(words,)``."""
    owners: Ids
    """For each token, the index of its label, ``(words,)``."""
    labels: int
    """Number of labels."""

    @classmethod
    def encode(cls, texts: TextEncoder, template: str, mask: str, groups: Sequence[Sequence[str]]) -> Verbalizer:
        """Look up the words of each label, spelled as at the template's mask.

        Raises:
            InputError: a word is not one token, or the template does not have the mask exactly once.
        """
        if template.count(mask) != 1:
            raise InputError(f"the template {template!r} must have the mask {mask} once; correct it.")
        flat = [word for group in groups for word in group]
        owners = [label for label, group in enumerate(groups) for _ in group]
        tokens = texts.words(flat, spaced=not template.startswith(mask))
        return cls(np.array(tokens, np.int64), np.array(owners, np.int64), len(groups))

    def scores(self, logits: Floats) -> Floats:
        """Return the labels' logits ``(…, labels)`` from the words' ``(…, words)``."""
        sums = np.zeros((self.labels, *logits.shape[:-1]), np.float32)
        np.add.at(sums, self.owners, np.moveaxis(logits, -1, 0))
        counts = np.bincount(self.owners, minlength=self.labels)
        return (np.moveaxis(sums, 0, -1) / counts).astype(np.float32)


def mask_position(row: Encoded, mask: MaskToken, template: str) -> int:
    """Return the position of the template's mask; masks in the text itself do not count.

    Args:
        row: template and text, from `TextEncoder.fit`.
        mask: the tokenizer's mask.
        template: has the mask once.
    """
    positions = [i for i, token in enumerate(row.ids) if token == mask.id]
    before = render(template[: template.index(mask.token)], row.text)
    assert isinstance(before, str)
    return positions[min(before.count(mask.token), len(positions) - 1)]
