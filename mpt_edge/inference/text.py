"""From texts to token arrays, the same way in training and on the device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from mpt_edge._arrays import Ids
from mpt_edge.errors import InputError
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.taskfile import Inputs, Side
from mpt_edge.inference.tokenization import CHARACTERS_PER_TOKEN, BoundedTokenizer, max_characters

#: A text, or a pair of texts.
Text = str | tuple[str, str]

#: Message for a text without tokens, such as one of zero-width spaces.
NO_TOKENS = "the text has no tokens for this model; pass words that its tokenizer knows."

#: Token of a space by itself in tokenizers made from SentencePiece models; it precedes an unknown character.
_SPACE = "\u2581"

#: A rare character, by which a tokenizer shows what becomes of those that it does not know.
_RARE = "\U0001d800"

#: Entry of a Unigram model in ``tokenizer.json``, which its object does not show.
_UNK_ID = re.compile(rb'"unk_id":\s*(\d+)')

_PLACEHOLDER = re.compile(r"\{(text|text_pair)\}")


class Offset(NamedTuple):
    """Position of a token in its text."""

    sequence: int
    """Index of the text of a pair; -1 for special tokens."""
    start: int
    """Offset of the first character."""
    end: int
    """Offset after the last character."""


class Notes(TypedDict):
    """Limits of what was read of a text, as answers report them."""

    truncated: bool
    unknown: bool


@dataclass(frozen=True)
class Encoded:
    """Tokens of one input."""

    ids: list[int]
    """Token ids, special tokens included."""
    types: list[int]
    """Segment ids: 0 for the first text, 1 for the second."""
    truncated: bool
    """Whether some of the input was cut off."""
    text: Text = ""
    """The input: with its template, or the part that `TextEncoder.fit` kept."""
    offsets: Sequence[Offset] = ()
    """Each token's position in its text, where they were asked for."""
    unknown: bool = False
    """Whether the input has no token that the tokenizer knows; see `TextEncoder.is_unknown`."""

    @property
    def notes(self) -> Notes:
        """Fields of every answer to the input."""
        return {"truncated": self.truncated, "unknown": self.unknown}


@dataclass(frozen=True)
class Batch:
    """Padded token arrays, each int64 of shape ``(rows, tokens)``."""

    input_ids: Ids
    attention_mask: Ids
    token_type_ids: Ids


class TextEncoder:
    """Tokenizer for texts and pairs of texts; safe under several threads."""

    def __init__(self, tokenizer_json: bytes, *, pad_id: int = 0, source: str = "tokenizer.json") -> None:
        """Load a tokenizer from the bytes of a ``tokenizer.json``.

        Raises:
            CorruptFileError: the bytes are no tokenizer.
        """
        self._json = tokenizer_json
        self._pad_id = pad_id
        self._tokens = BoundedTokenizer(tokenizer_json, source)
        self._unknown = _unknown_token(self.tokenizer, tokenizer_json)
        # A token for each unknown character and the space before it say nothing of a text.
        self._empty = {self._unknown, self.tokenizer.token_to_id(_SPACE)}
        (rare,) = self._ids([_RARE])
        self._drops = self._unknown not in rare and self._empty.issuperset(rare)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer file."""
        return hashlib.sha256(self._json).hexdigest()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, to decode tokens."""
        return self._tokens.library

    def encode(self, texts: Sequence[Text], max_length: int, *, offsets: bool = False) -> list[Encoded]:
        """Tokenize texts, each to at most ``max_length`` tokens, with the tokens' offsets if asked for."""
        rows = self._tokens.encode([_parts(text) for text in texts], max_length, offsets=offsets)
        return [
            Encoded(row.ids, row.types, row.truncated, text, [Offset(*span) for span in row.offsets])
            if offsets
            else Encoded(row.ids, row.types, row.truncated, text)
            for row, text in zip(rows, texts, strict=True)
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
        """Return the number of special tokens added to a text, or to a pair of texts."""
        return self._tokens.special[pair]

    def continuations(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Return the first ``max_length`` tokens of texts that continue others, without special tokens."""
        return self._ids(texts, max_length)

    def words(self, texts: Sequence[str], *, spaced: bool = True) -> list[int]:
        """Return the token of each word, spelled after a space or at the beginning of a text.

        Raises:
            InputError: a word is not exactly one token.
        """
        result = self.continuations([f" {text}" if spaced else text for text in texts])
        for text, tokens in zip(texts, result, strict=True):
            if len(tokens) != 1:
                raise InputError(
                    f"{text!r} is {len(tokens)} tokens to this model, and a mask stands for one; choose another word."
                )
        return [tokens[0] for tokens in result]

    def fit(
        self,
        template: str | None,
        text: Text,
        max_length: int,
        side: Side = Side.RIGHT,
        chat: ChatFrame | None = None,
    ) -> Encoded:
        """Fill a template and tokenize it; only the text is truncated, never the template.

        Args:
            template: text with ``{text}`` and ``{text_pair}``, or None.
            text: the input; of a pair, the longer text is cut first.
            max_length: maximum tokens.
            side: side on which the text is cut.
            chat: text around the filled template, which has all special tokens; None to add the tokenizer's.

        Raises:
            InputError: the template alone fills the room, or the text has no tokens.
        """
        limit = max_length * CHARACTERS_PER_TOKEN
        parts = [_keep(part, limit, side) for part in _parts(text)]
        truncated = parts != list(_parts(text))
        while all(part.strip() for part in parts):
            kept: Text = parts[0] if len(parts) == 1 else (parts[0], parts[1])
            ids, types = self._whole(render(template, kept), chat)
            if not ids:
                raise InputError(NO_TOKENS)
            excess = len(ids) - max_length
            if excess <= 0:
                return Encoded(ids, types, truncated, kept)
            if not self._cut_longest(parts, excess, side):
                break
            truncated = True
        raise InputError(
            f"nothing of the text fits into {max_length} tokens beside the task's own words; "
            "raise max_length, or ask for fewer new tokens."
        )

    def is_unknown(self, text: Text, row: Encoded, side: Side = Side.RIGHT) -> bool:
        """Whether an input has no token that the tokenizer knows. Byte-level tokenizers know all.

        Args:
            text: the input, without the task's template, whose own words do not count.
            row: its tokens, as `encode` or `fit` returned them.
            side: side on which the text is cut.
        """
        if not self._drops and self._unknown not in row.ids:  # so most texts are tokenized once
            return False
        count, ids = len(row.ids), set[int | None]()
        for part in _parts(text):
            kept = _keep(part, count * CHARACTERS_PER_TOKEN, side)
            (tokens,) = self._ids([kept])
            ids.update(tokens[:count] if side is Side.RIGHT else tokens[-count:])
        return ids <= self._empty

    def _whole(self, text: Text, chat: ChatFrame | None) -> tuple[list[int], list[int]]:
        """Return the tokens and segment ids of a whole text, with a chat around it or special tokens."""
        if chat is None:
            (row,) = self._tokens.encode([_parts(text)], None)
            return row.ids, row.types
        (ids,) = self._ids([chat.wrap(" ".join(_parts(text)))])
        return ids, [0] * len(ids)

    def _cut_longest(self, parts: list[str], excess: int, side: Side) -> bool:
        """Cut up to ``excess`` tokens off the longest part, in place; return whether it could spare any."""
        offsets = [piece.offsets for piece in self._tokens.read(parts, offsets=True)]
        order = sorted(range(len(parts)), key=lambda i: len(offsets[i]))
        longest, size = order[-1], len(offsets[order[-1]])
        # The longer text of a pair first comes down to the other's length, then both lose alike.
        ahead = size - len(offsets[order[0]]) if len(parts) > 1 else size
        count = min(excess, max(ahead, -(-excess // 2)), size - 1)
        if count < 1:
            return False
        part = parts[longest]
        # A token may have no character of its own, so each turn takes at least one.
        if side is Side.RIGHT:
            parts[longest] = part[: min(offsets[longest][-count][0], len(part) - 1)]
        else:
            parts[longest] = part[max(offsets[longest][count][0], 1) :]
        return True

    def _ids(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Return the tokens of texts, without special tokens; of whole ones unless a maximum is given."""
        return [piece.ids for piece in self._tokens.read(texts, max_length)]


def render(template: str | None, text: Text) -> Text:
    """Fill a task's template; without one, return the input as it is.

    Only ``{text}`` and ``{text_pair}`` are replaced, so braces in a text are harmless.
    """
    if template is None:
        return text
    first, second = text if isinstance(text, tuple) else (text, "")
    values = {"text": first, "text_pair": second}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def render_beginning(template: str | None, text: Text, max_length: int) -> Text:
    """Fill a template with as much of a text as `TextEncoder.encode` reads for ``max_length`` tokens."""
    if template is None:
        return text
    limit = max_characters(max_length) + 1  # one more, to see that it was cut
    parts = [_keep(part, limit) for part in _parts(text)]
    return render(template, parts[0] if len(parts) == 1 else (parts[0], parts[1]))


def validate_text(text: object, inputs: Inputs) -> Text:
    """Return ``text`` if a task with these inputs can read it.

    Raises:
        InputError: it is empty, no text, or a single text where a pair is needed.
    """
    parts = text if isinstance(text, tuple | list) else (text,)
    if isinstance(text, list) and inputs is not Inputs.PAIR:
        raise InputError("this is a list where one text belongs; pass a str, or call the task with the list.")
    if not all(isinstance(part, str) for part in parts) or len(parts) > 2:
        raise InputError(
            f"expected a text or a pair of texts, got {type(text).__name__}; pass a str or a tuple of two."
        )
    if inputs is Inputs.PAIR and len(parts) != 2:
        raise InputError("this task reads pairs of texts; pass a tuple (text, text_pair).")
    if inputs is Inputs.TEXT and len(parts) != 1:
        raise InputError("this task reads single texts; pass a str, not a pair.")
    if not all(part.strip() for part in parts):
        raise InputError("the text is empty; pass at least one word.")
    try:
        "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a character (a lone surrogate); decode it as UTF-8.") from error
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def try_validate(text: object, inputs: Inputs) -> Text | InputError:
    """Return the text of `validate_text`, or its error."""
    try:
        return validate_text(text, inputs)
    except InputError as error:
        return error


def _unknown_token(tokenizer: Tokenizer, tokenizer_json: bytes) -> int | None:
    """Return the id of the token for unknown characters or words; None for a tokenizer without one."""
    token = getattr(tokenizer.model, "unk_token", None)
    if token is not None:
        return tokenizer.token_to_id(token)
    found = _UNK_ID.search(tokenizer_json) if isinstance(tokenizer.model, Unigram) else None
    return found and int(found[1])


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _keep(text: str, limit: int, side: Side = Side.RIGHT) -> str:
    """Return ``limit`` characters of a text; outer spaces count only if there are others among them."""
    if len(text) <= limit:
        return text
    if side is Side.LEFT:
        kept = text[-limit:]
        return kept if kept.strip() else text.rstrip()[-limit:]
    kept = text[:limit]
    return kept if kept.strip() else text.lstrip()[:limit]
