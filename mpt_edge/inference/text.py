"""From texts to token arrays, the same way in training and on the device.

Text is cut to a number of characters before it is tokenized, since tokenizing a very long text
costs far more than the tokens that are kept, and is truncated to ``max_length`` tokens; both are
reported.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mpt_edge.errors import CorruptFileError, InputError

#: A text, or a pair of texts.
Text = str | tuple[str, str]

#: Characters kept per token of ``max_length``; ordinary text has four to six.
CHARACTERS_PER_TOKEN = 32

#: Tokens that no text reaches.
_WHOLE = 1 << 30

#: What is said of a text of which the tokenizer leaves nothing, such as spaces of width zero.
NO_TOKENS = "the text has no tokens for this model; pass words that its tokenizer knows."

_PLACEHOLDER = re.compile(r"\{(text|text_pair)\}")


@dataclass(frozen=True)
class Encoded:
    """Token ids of one input.

    Attributes:
        ids: token ids, special tokens included.
        types: 0 for the first text, 1 for the second.
        truncated: whether some of the input was cut off.
        text: what is left of the input, where it was fitted into a template.
    """

    ids: list[int]
    types: list[int]
    truncated: bool
    text: Text = ""


@dataclass(frozen=True)
class Batch:
    """Padded token arrays, each int64 of shape ``(rows, tokens)``."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]


class TextEncoder:
    """Tokenizes texts and pairs of texts; safe under several threads."""

    def __init__(self, tokenizer_json: bytes, *, pad_id: int = 0, source: str = "tokenizer.json") -> None:
        """Load a tokenizer from the bytes of a ``tokenizer.json``.

        Raises:
            CorruptFileError: the bytes are no tokenizer.
        """
        self._json = tokenizer_json
        self._source = source
        self._pad_id = pad_id
        self._by_length: dict[int, Tokenizer] = {}
        self._lock = threading.Lock()
        self._loaded = [self._load()]  # so that a bad file shows here; the first length takes it
        self._special = [int(self._loaded[0].num_special_tokens_to_add(pair)) for pair in (False, True)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer file."""
        return hashlib.sha256(self._json).hexdigest()

    def encode(self, texts: Sequence[Text], max_length: int) -> list[Encoded]:
        """Tokenize texts, each to at most ``max_length`` tokens.

        Raises:
            InputError: a text is empty or not text.
        """
        limit = max_length * CHARACTERS_PER_TOKEN
        tokenizer = self._for(max_length)
        encodings = tokenizer.encode_batch([_cut(text, limit) for text in texts])
        return [
            Encoded(e.ids, e.type_ids, bool(e.overflowing) or _length(text) > limit)
            for e, text in zip(encodings, texts, strict=True)
        ]

    def pad(self, rows: Sequence[Encoded]) -> Batch:
        """Pad rows on the right to the longest of them."""
        width = max(len(row.ids) for row in rows)
        shape = (len(rows), width)
        ids = np.full(shape, self._pad_id, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length] = row.ids
            types[i, :length] = row.types
            mask[i, :length] = 1
        return Batch(ids, mask, types)

    def special_tokens(self, *, pair: bool) -> int:
        """Return how many tokens stand around a text, or a pair of texts, that are not of it."""
        return self._special[pair]

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts that stand behind others, without the special tokens of a whole input."""
        return [list(e.ids) for e in self._for(_WHOLE).encode_batch(list(texts), add_special_tokens=False)]

    def words(self, texts: Sequence[str], *, spaced: bool = True) -> list[int]:
        """Return the token of each word, as it stands behind a space or at a text's beginning.

        Raises:
            InputError: a word is not exactly one token.
        """
        found = self.continuations([f" {text}" if spaced else text for text in texts])
        for text, tokens in zip(texts, found, strict=True):
            if len(tokens) != 1:
                raise InputError(
                    f"{text!r} is {len(tokens)} tokens to this model, and a mask stands for one; choose another word."
                )
        return [tokens[0] for tokens in found]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, to turn tokens into text."""
        return self._for(_WHOLE)

    def fit(self, template: str, text: Text, max_length: int, cut: str = "right") -> Encoded:
        """Fill a template and tokenize it; where that is too long, the text loses its end or its beginning.

        The template stays whole, since what it asks for often stands at its end.

        Args:
            template: text with ``{text}`` and ``{text_pair}``, or empty.
            text: the input; of a pair the longer text is cut.
            max_length: most tokens.
            cut: ``"right"`` or ``"left"``: the side that the text loses.

        Raises:
            InputError: the template alone fills the room, or the text has no tokens.
        """
        limit = max_length * CHARACTERS_PER_TOKEN
        parts = [_kept(part, limit) if cut == "right" else _kept(part[::-1], limit)[::-1] for part in _parts(text)]
        shortened = parts != list(_parts(text))
        while all(part.strip() for part in parts):
            given: Text = parts[0] if len(parts) == 1 else (parts[0], parts[1])
            whole = self.encode([render(template, given)], _WHOLE)[0]
            if not whole.ids:
                raise InputError(NO_TOKENS)
            excess = len(whole.ids) - max_length
            if excess <= 0:
                return Encoded(whole.ids, whole.types, shortened, given)
            if not self._cut_longest(parts, excess, cut):
                break
            shortened = True
        raise InputError(
            f"nothing of the text fits into {max_length} tokens beside the task's own words; "
            "raise max_length, or ask for fewer new tokens."
        )

    def _cut_longest(self, parts: list[str], excess: int, cut: str) -> bool:
        """Take up to ``excess`` tokens off the part that has most, in place; return whether it could spare any."""
        offsets = [self._for(_WHOLE).encode(part, add_special_tokens=False).offsets for part in parts]
        order = sorted(range(len(parts)), key=lambda i: len(offsets[i]))
        longest, size = order[-1], len(offsets[order[-1]])
        # Of a pair the longer text comes down to the other's length, and then both lose alike.
        ahead = size - len(offsets[order[0]]) if len(parts) > 1 else size
        taken = min(excess, max(ahead, -(-excess // 2)), size - 1)
        if taken < 1:
            return False
        part = parts[longest]
        # A token may stand for no character of its own, so each turn takes at least one.
        if cut == "right":
            parts[longest] = part[: min(offsets[longest][-taken][0], len(part) - 1)]
        else:
            parts[longest] = part[max(offsets[longest][taken][0], 1) :]
        return True

    def places(self, text: Text, max_length: int) -> list[tuple[int, int, int]]:
        """Return for each token which text it stands in (-1 for special tokens), and its characters there."""
        encoding = self._for(max_length).encode_batch([_cut(text, max_length * CHARACTERS_PER_TOKEN)])[0]
        owners = [-1 if owner is None else int(owner) for owner in encoding.sequence_ids]
        return [(owner, start, end) for owner, (start, end) in zip(owners, encoding.offsets, strict=True)]

    def _for(self, max_length: int) -> Tokenizer:
        # Truncation is a setting of the tokenizer object, so each length has an object of its own.
        with self._lock:
            if max_length not in self._by_length:
                tokenizer = self._loaded.pop() if self._loaded else self._load()
                tokenizer.enable_truncation(max_length)
                self._by_length[max_length] = tokenizer
            return self._by_length[max_length]

    def _load(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_buffer(self._json)
        except Exception as error:  # the library raises bare Exception for any malformed file
            raise CorruptFileError(f"{self._source} is not a tokenizer file; export the bundle again.") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer


def render(template: str, text: Text) -> Text:
    """Fill a task's template; an empty template leaves the input as it is.

    Only ``{text}`` and ``{text_pair}`` are replaced, so braces in a text are harmless.
    """
    if not template:
        return text
    first, second = text if isinstance(text, tuple) else (text, "")
    values = {"text": first, "text_pair": second}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def validate_text(text: object, kind: str) -> Text:
    """Return ``text`` if a task of this kind can read it.

    Raises:
        InputError: it is empty, no text, or a single text where a pair is needed.
    """
    parts = text if isinstance(text, tuple | list) else (text,)
    if isinstance(text, list) and kind != "pair":
        raise InputError("this is a list where one text belongs; pass a str, or call the task with the list.")
    if not all(isinstance(part, str) for part in parts) or len(parts) > 2:
        raise InputError(
            f"expected a text or a pair of texts, got {type(text).__name__}; pass a str or a tuple of two."
        )
    if kind == "pair" and len(parts) != 2:
        raise InputError("this task reads pairs of texts; pass a tuple (text, text_pair).")
    if kind != "pair" and len(parts) != 1:
        raise InputError("this task reads single texts; pass a str, not a pair.")
    if not all(part.strip() for part in parts):
        raise InputError("the text is empty; pass at least one word.")
    try:
        "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a character (a lone surrogate); decode it as UTF-8.") from error
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _cut(text: Text, limit: int) -> Text:
    return _kept(text, limit) if isinstance(text, str) else (_kept(text[0], limit), _kept(text[1], limit))


def _kept(text: str, limit: int) -> str:
    """Return a text's first characters, behind its spaces where it has no others among them."""
    kept = text[:limit]
    return kept if kept.strip() else text.lstrip()[:limit]


def _length(text: Text) -> int:
    return len(text) if isinstance(text, str) else max(len(text[0]), len(text[1]))
