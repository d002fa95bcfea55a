"""A tokenizer whose time and memory depend on the tokens that are kept, not on the length of the texts.

The library's own truncation tokenizes a whole text and keeps every combination of what it cuts off a pair. Here a
text is first cut to a number of characters, tokenized alone, and then truncated by the library's rules.

The result is that of the whole text: characters are cut where a word ends, and more are read where they make too few
tokens. There are two exceptions, both reported as truncated: a text with fewer tokens than `MAX_CHARACTERS_PER_TOKEN`
makes possible, such as one of thousands of spaces, loses what follows; and of two texts of which one is longer than
that, the one with more characters gets the odd token.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mpt_edge.errors import CorruptFileError, MptEdgeError

#: Characters read per token at first; ordinary text has four to six.
CHARACTERS_PER_TOKEN = 32

#: Characters read per token at most, where a text has few tokens.
MAX_CHARACTERS_PER_TOKEN = 256

#: Maximum characters of that second reading, unless the first has more.
_MAX_READING = 1 << 16

#: Last tokens that may differ from those of the whole text, where no word ends near the cut. WordPiece makes one token
#: of a word of more than 100 characters, and up to 100 of its beginning.
_MARGIN = 128

#: Characters tokenized in one call of the library, which keeps about 150 bytes for each token until it returns.
_MAX_CALL = 1 << 17

#: The longest beginning that ends with a word before a space. No tokenizer joins these two.
_WORDS = re.compile(r".*\S(?= )", re.DOTALL)

#: Entry of a model in ``tokenizer.json`` that BPE can have, too.
_PREFIX = re.compile(rb'"continuing_subword_prefix":\s*"[^"]')

#: Tokens of the vocabulary that are tried as a text of one token.
_MAX_PROBES = 256

_SPECIAL = -1


class Piece(NamedTuple):
    """Tokens of one text, without special tokens."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """Position of each token in the text; empty where they were not asked for."""
    total: int
    """Number of tokens that were read, kept or not."""
    is_whole: bool
    """Whether all characters were read."""


class Row(NamedTuple):
    """Tokens of a text or of a pair, with special tokens."""

    ids: list[int]
    types: list[int]
    truncated: bool
    offsets: list[tuple[int, int, int]]
    """Sequence (-1 for special tokens), start and end of each token; empty where they were not asked for."""


class _Part(NamedTuple):
    """Part of what a post-processor returns: a special token, or the tokens of a text."""

    owner: int
    id: int
    type: int


class BoundedTokenizer:
    """A tokenizer of the library, used without its truncation; safe under several threads.

    Attributes:
        library: the library's object, to decode tokens.
    """

    def __init__(self, data: bytes, source: str) -> None:
        """Load the bytes of a ``tokenizer.json``; ``source`` names it in messages.

        Raises:
            CorruptFileError: the bytes are no tokenizer, or one that fails on every text.
        """
        self._source = source
        with self._guarded():
            _check_merges(data)
            self.library = Tokenizer.from_buffer(data)
            self.library.no_padding()
            self.library.no_truncation()
            self._frames = (self._frame(1), self._frame(2))
        self.special = tuple(sum(part.owner == _SPECIAL for part in frame) for frame in self._frames)

    def encode(self, texts: Sequence[tuple[str, ...]], max_length: int | None, *, offsets: bool = False) -> list[Row]:
        """Tokenize texts and pairs of texts.

        Args:
            texts: tuples of one or two texts.
            max_length: maximum tokens, special ones included; None for no limit.
            offsets: whether to return the tokens' positions.

        Raises:
            CorruptFileError: the library fails.
        """
        pieces = iter(self.read([part for text in texts for part in text], max_length, offsets=offsets))
        return [self._row(text, list(islice(pieces, len(text))), max_length, offsets=offsets) for text in texts]

    def read(self, texts: Sequence[str], max_length: int | None = None, *, offsets: bool = False) -> Iterator[Piece]:
        """Yield the first ``max_length`` tokens of each text. Raises CorruptFileError."""
        if max_length is None:
            windows = [_Window(text, 0, 0, is_whole=True) for text in texts]
        else:
            windows = [_window(text, max_length * CHARACTERS_PER_TOKEN) for text in texts]
        given = iter(texts)
        for call in _calls(windows):
            encodings = self._encode([window.text for window in call], offsets=offsets)
            for window, encoding, text in zip(call, encodings, given, strict=False):  # `given` goes on in the next call
                has_too_few = max_length is not None and len(encoding) < max_length + window.margin
                if has_too_few and not window.is_whole:
                    yield self._read_on(text, max_length or 0, offsets=offsets)
                else:
                    yield _piece(encoding, window, max_length, offsets=offsets)

    def _read_on(self, text: str, max_length: int, *, offsets: bool) -> Piece:
        """Read more of a text of which the first characters made too few tokens."""
        window = _window(text, max_characters(max_length))
        (encoding,) = self._encode([window.text], offsets=offsets)
        return _piece(encoding, window, max_length, offsets=offsets)

    def _encode(self, texts: Sequence[str], *, offsets: bool = False) -> Any:
        encode = self.library.encode_batch if offsets else self.library.encode_batch_fast
        with self._guarded():
            return encode(texts, add_special_tokens=False)

    def _row(self, text: Sequence[str], pieces: Sequence[Piece], max_length: int | None, *, offsets: bool) -> Row:
        """Truncate the tokens of a text or of a pair, and add special tokens."""
        frame, counts = self._frames[len(pieces) - 1], [piece.total for piece in pieces]
        truncated = not all(piece.is_whole for piece in pieces)
        if max_length is not None:
            room = max(0, max_length - self.special[len(pieces) - 1])
            if sum(counts) > room:
                truncated = True
                counts = [room] if len(text) == 1 else self._pair_lengths(text, pieces, room, max_length)
        ids, types, spans = list[int](), list[int](), list[tuple[int, int, int]]()
        for owner, id_, type_ in frame:
            tokens = [id_] if owner == _SPECIAL else pieces[owner].ids[: counts[owner]]
            ids += tokens
            types += [type_] * len(tokens)
            if offsets and owner == _SPECIAL:
                spans.append((owner, 0, 0))
            elif offsets:
                spans += [(owner, *span) for span in pieces[owner].offsets[: counts[owner]]]
        return Row(ids, types, truncated, spans)

    def _pair_lengths(self, pair: Sequence[str], pieces: Sequence[Piece], room: int, max_length: int) -> list[int]:
        """Return the tokens that are kept of each text of a pair that has more than ``room``."""
        first, second = sizes = [piece.total for piece in pieces]
        is_even = room % 2 == 0 or min(sizes) <= room // 2  # no odd token that the longer text would get
        if not is_even and not all(piece.is_whole for piece in pieces):
            is_short = max(map(len, pair)) <= max_characters(max_length)
            sizes = [len(part) for part in (self._encode(pair) if is_short else pair)]
        return pair_lengths(first, second, room, first_is_longer=sizes[0] > sizes[1])

    def _frame(self, texts: int) -> list[_Part]:
        """Learn from an example what the post-processor adds to a text or to a pair.

        Raises:
            CorruptFileError: it is no fixed frame around each text once.
        """
        probe = next(filter(self._count, self._probes()), None)
        if probe is None:  # no text has tokens
            ids = self._whole(texts, "").ids
            return [*(_Part(_SPECIAL, id_, 0) for id_ in ids), *(_Part(i, 0, 0) for i in range(texts))]
        frame, longer = list[_Part](), f"{probe} {probe}"
        encoding = self._whole(texts, probe)
        for id_, type_, owner in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if owner is None or not frame or frame[-1].owner != owner:
                frame.append(_Part(_SPECIAL if owner is None else owner, id_, type_))
        owners = sorted(part.owner for part in frame if part.owner != _SPECIAL)
        tokens = self.library.encode(longer, add_special_tokens=False).ids
        expected = [id_ for part in frame for id_ in ([part.id] if part.owner == _SPECIAL else tokens)]
        if owners != list(range(texts)) or self._whole(texts, longer).ids != expected:
            raise CorruptFileError(
                f"{self._source} does not put each text once between special tokens; export the bundle again."
            )
        return frame

    def _probes(self) -> Iterator[str]:
        yield from ("a", "A", "1", ".")
        yield from islice(self.library.get_vocab(with_added_tokens=False), _MAX_PROBES)

    def _count(self, text: str) -> int:
        return len(self.library.encode(text, add_special_tokens=False).ids)

    def _whole(self, texts: int, text: str) -> Any:
        """Return what the library makes of a text, or of a pair of it, with special tokens."""
        return self.library.encode(text, text if texts == 2 else None)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn every error of the library into one sentence. Raises CorruptFileError."""
        try:
            yield
        except (MptEdgeError, MemoryError):
            raise
        except Exception as error:  # the library raises bare Exception for any malformed file
            raise self._unusable() from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # Rust's, which is no Exception
                raise self._unusable() from error
            raise

    def _unusable(self) -> CorruptFileError:
        return CorruptFileError(f"{self._source} is not a tokenizer file; export the bundle again.")


def _check_merges(data: bytes) -> None:
    """Refuse merges without the prefix that their model states, for which the library ends the process.

    Raises:
        ValueError: the bytes have such merges, or are no JSON.
    """
    if _PREFIX.search(data) is None:
        return
    model = json.loads(data)["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges", ()):
        second = merge.split(" ")[-1] if isinstance(merge, str) else merge[-1]
        if not second.startswith(prefix):
            raise ValueError(f"the merge {merge!r} lacks the prefix")


def max_characters(max_length: int) -> int:
    """Return the number of characters of a text that are read at most."""
    return max(max_length * CHARACTERS_PER_TOKEN, min(max_length * MAX_CHARACTERS_PER_TOKEN, _MAX_READING))


def pair_lengths(first: int, second: int, room: int, *, first_is_longer: bool) -> list[int]:
    """Return the tokens that the library keeps of each text of a pair that has more than ``room``.

    The longer text is cut to the length of the other, then both alike.

    Args:
        first: tokens of the first text.
        second: tokens of the second text.
        room: maximum tokens of both.
        first_is_longer: whether the first has more tokens, before any cut. The longer one gets the odd token.
    """
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
        return [longer, shorter] if first_is_longer else [shorter, longer]
    return [longer, shorter] if first > second else [shorter, longer]


class _Window(NamedTuple):
    """Part of a text that is read."""

    text: str
    start: int
    """Characters left out before it: spaces."""
    margin: int
    """Number of its last tokens that may differ from those of the whole text."""
    is_whole: bool


def _window(text: str, size: int) -> _Window:
    """Return at most ``size`` characters of a text; leading spaces count only if there are others among them."""
    if len(text) <= size:
        return _Window(text, 0, 0, is_whole=True)
    kept, start = text[:size], 0
    if not kept.strip():
        start = len(text) - len(text.lstrip())
        kept = text[start : start + size]
    if start + size >= len(text):
        return _Window(kept, start, 0, is_whole=False)
    words = _WORDS.match(kept, size // 2)
    if words is None:
        return _Window(kept, start, _MARGIN, is_whole=False)
    return _Window(kept[: words.end()], start, 0, is_whole=False)


def _calls(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Group windows into calls of the library that need little memory."""
    call, size = list[_Window](), 0
    for window in windows:
        if call and size + len(window.text) > _MAX_CALL:
            yield call
            call, size = [], 0
        call.append(window)
        size += len(window.text)
    if call:
        yield call


def _piece(encoding: Any, window: _Window, max_length: int | None, *, offsets: bool) -> Piece:
    ids = encoding.ids
    spans = list[tuple[int, int]]()
    if offsets:
        spans = [(start + window.start, end + window.start) for start, end in encoding.offsets[:max_length]]
    return Piece(ids[:max_length], spans, len(ids), window.is_whole)
