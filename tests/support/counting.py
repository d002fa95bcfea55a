"""Counting the texts that a tokenizer reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mpt_edge.inference.text import _RARE
from mpt_edge.inference.tokenization import BoundedTokenizer


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that every text, or text of a pair, is added to when it is tokenized from now on."""
    seen: list[str] = []
    original = BoundedTokenizer._encode

    def encode(self: BoundedTokenizer, texts: Sequence[str], **options: Any) -> Any:
        seen.extend(text for text in texts if text != _RARE)  # which every new encoder reads once
        return original(self, texts, **options)

    monkeypatch.setattr(BoundedTokenizer, "_encode", encode)
    return seen
