"""Counting the texts that a tokenizer reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer

from mpt_edge.inference.text import TextEncoder


class CountingTokenizer:
    """A tokenizer that notes all texts it tokenizes."""

    def __init__(self, tokenizer: Tokenizer, seen: list[Any]) -> None:
        self._tokenizer, self._seen = tokenizer, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: Any, *rest: Any, **options: Any) -> Any:
        self._seen.append(text)
        return self._tokenizer.encode(text, *rest, **options)

    def encode_batch(self, texts: Sequence[Any], *rest: Any, **options: Any) -> Any:
        self._seen += texts
        return self._tokenizer.encode_batch(texts, *rest, **options)


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that every text is added to when it is tokenized from now on."""
    seen: list[Any] = []
    original = TextEncoder._for
    monkeypatch.setattr(TextEncoder, "_for", lambda self, length: CountingTokenizer(original(self, length), seen))
    return seen
