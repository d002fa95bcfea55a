"""Texts that match a JSON schema or a regular expression: the tokens that may come next.

llguidance follows a text byte by byte, and compiles a schema in a millisecond. outlines-core compiles the same schema
for 8 s on SmolLM2's vocabulary, which a server cannot do for each request. Both need some ten microseconds per token.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from mpt_edge._arrays import Floats
from mpt_edge._extras import require
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.token_bytes import NO_TEXT, token_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher

#: Constraints that are kept compiled.
_KEPT = 16

#: Settings of JSON, whatever the schema asks for. At most one space between parts, since small models go on for ever
#: with line breaks where these are allowed.
_JSON: Any = {"whitespace_flexible": True, "whitespace_pattern": " ", "lenient": False, "coerce_one_of": False}

#: Maximum states of an expression; each takes 1 to 2 kB. The library's own limit is five times as high.
_MAX_STATES = 50_000

#: Maximum work for reading an expression. ``(((a{1000}){1000}){1000})`` takes a second with the library's own limit,
#: which is five times as high.
_MAX_FUEL = 200_000

#: Maximum product of a schema's values of ``multipleOf``. llguidance takes minutes for 100,000, and nothing stops it.
_MAX_MULTIPLE = 1000

#: Bytes of the beginning that all texts share, by which the smallest number of tokens is estimated.
_MAX_FORCED = 4096

#: An anchor at the end of an expression, rather than an escaped dollar sign.
_ANCHORED = re.compile(r"(?<!\\)(?:\\\\)*\$\Z")


class Follower:
    """One text under a constraint."""

    def __init__(self, matcher: LLMatcher, size: int, *, trims: bool) -> None:
        """Follow a text.

        Args:
            matcher: the matcher of this text alone.
            size: number of the tokenizer's tokens.
            trims: whether the one space that may precede the text is removed.
        """
        self._matcher, self._size, self._trims = matcher, size, trims

    @property
    def is_complete(self) -> bool:
        """Whether the text matches as it is."""
        return bool(self._matcher.is_accepting())

    @property
    def is_over(self) -> bool:
        """Whether it matches, and no longer text would."""
        return self.is_complete and bool(self._matcher.is_stopped())

    def restrict(self, scores: Floats, eos: Sequence[int]) -> Floats:
        """Return scores ``(vocabulary,)`` with minus infinity for all tokens that may not come next.

        Raises:
            InputError: no token may, since the model has none for the rest of a text that matches.
        """
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        self._check()
        allowed = np.zeros(len(scores), np.bool_)
        count = min(self._size, len(scores))
        allowed[:count] = bits[:count]
        allowed[list(eos)] = self.is_complete
        if not allowed.any():
            raise _unspellable()
        return np.where(allowed, scores, np.float32(-np.inf))

    def advance(self, token: int) -> None:
        """Add a token, other than one that ends the text. Raises InputError as `restrict`."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> Follower:
        """Return a follower of the same text that goes on by itself."""
        return Follower(self._matcher.deep_copy(), self._size, trims=self._trims)

    def trim(self, text: str) -> str:
        """Return the part of a generated text that the constraint is about."""
        return text.removeprefix(" ") if self._trims else text

    def _check(self) -> None:
        if self._matcher.is_error():
            message = self._matcher.get_error()
            if "fuel" in message or "too many" in message or "max is" in message:
                raise InputError("the schema or expression needs too much work for each token; simplify it.")
            raise _unspellable()


class Constraint:
    """A compiled schema or expression.

    A text may begin with one space, which is removed: many models write one. Where the expression itself allows a
    space there, nothing is removed.

    Attributes:
        min_tokens: number of tokens that every text needs at least, as far as its beginning tells.
    """

    def __init__(self, matcher: LLMatcher, spaced: LLMatcher, size: int, *, is_exact: bool, min_tokens: int) -> None:
        """Keep the matcher of the texts themselves, and that of texts after a space."""
        self._matcher, self._spaced, self._size, self._is_exact = matcher, spaced, size, is_exact
        self.min_tokens = min_tokens

    def follow(self, *, is_trimmed: bool) -> Follower:
        """Return a follower of a new text.

        Args:
            is_trimmed: whether the tokenizer's decoding removes a space at the beginning of the text.
        """
        is_plain = self._is_exact and not is_trimmed
        matcher = (self._matcher if is_plain else self._spaced).deep_copy()
        return Follower(matcher, self._size, trims=not self._is_exact)


class Grammars:
    """Compiler of constraints for one tokenizer, which keeps the last ones; safe under several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer; it is read with the first constraint."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._vocabulary: _Vocabulary | None = None
        self._kept: OrderedDict[tuple[str | None, str | None], Constraint] = OrderedDict()

    def constraint(self, options: GenerationOptions) -> Constraint | None:
        """Return the constraint of a request's options, if there is one.

        Raises:
            InputError: the schema or the expression cannot be used, or needs more tokens than the options allow.
            MissingExtraError: llguidance is not installed.
        """
        if not options.is_constrained:
            return None
        result = self._compiled(options)
        if result.min_tokens > options.max_new_tokens:
            raise InputError(
                f"a text that matches needs at least {result.min_tokens:,} tokens, and max_new_tokens is "
                f"{options.max_new_tokens:,}; raise it."
            )
        return result

    def _compiled(self, options: GenerationOptions) -> Constraint:
        key = options.json_schema, options.regex
        with self._lock:
            if self._vocabulary is None:
                require("constrain", "llguidance", before="for json_schema and regex: ")
                self._vocabulary = _Vocabulary(self._tokenizer)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        result = _compile(options, self._vocabulary)  # others need not wait for it
        with self._lock:
            self._kept[key] = result
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return result


class _Vocabulary:
    """A tokenizer as llguidance reads it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer

        spelled = token_bytes(tokenizer)
        self._tokenizer = tokenizer
        # An end of its own, since a model may have several end tokens, or none.
        self.tokens = [*spelled, NO_TEXT + b"end"]
        self.eos_token_id, self.bos_token_id = len(spelled), None
        self.special_token_ids = [i for i, token in enumerate(self.tokens) if token.startswith(NO_TEXT)]
        self.is_tokenizer_wrapper = True
        self._ids = {token: i for i, token in reversed(list(enumerate(spelled))) if token[:1] not in (NO_TEXT, b"")}
        self._sorted, self._longest = sorted(self._ids), max(map(len, self._ids), default=0)
        self.library = LLTokenizer(self, slices=[])  # type: ignore[arg-type]

    def __call__(self, text: str) -> list[int]:
        """Return tokens whose bytes are those of a text; llguidance takes them where only one text may follow."""
        data, ids = text.encode(), self._tokenizer.encode(text, add_special_tokens=False).ids
        if b"".join(self.tokens[i] for i in ids) == data:
            return list(ids)
        result, place = list[int](), 0  # SentencePiece puts a space before each text
        while place < len(data):
            sizes = range(min(self._longest, len(data) - place), 0, -1)
            size = next((size for size in sizes if data[place : place + size] in self._ids), 0)
            if not size:
                break
            result.append(self._ids[data[place : place + size]])
            place += size
        return result

    def min_tokens(self, data: bytes) -> float:
        """Return a number of tokens that is needed at least to spell bytes; infinity where no tokens do."""
        fewest: list[float] = [0.0]
        for end in range(1, len(data)):
            starts = range(max(0, end - self._longest), end)
            fewest.append(min((fewest[start] + 1 for start in starts if data[start:end] in self._ids), default=inf))
        # The last token may go on after the bytes.
        starts = range(max(0, len(data) - self._longest), len(data))
        return min((fewest[start] + 1 for start in starts if self._begins(data[start:])), default=inf) if data else 0

    def _begins(self, data: bytes) -> bool:
        """Whether a token begins with some bytes."""
        place = bisect_left(self._sorted, data)
        return place < len(self._sorted) and self._sorted[place].startswith(data)


def _compile(options: GenerationOptions, vocabulary: _Vocabulary) -> Constraint:
    """Compile a constraint. Raises InputError."""
    if options.json_schema is not None:
        noun, (plain, optional, spaced) = "JSON schema", _json_grammars(options.json_schema)
    else:
        noun, (plain, optional, spaced) = "regular expression", _regex_grammars(options.regex or "")
    matcher = _matcher(plain, vocabulary, noun)
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    _check_matcher(matcher, noun)
    tokens = [vocabulary.tokens[i] for i in np.flatnonzero(bits) if i != vocabulary.eos_token_id]
    if not tokens and matcher.is_accepting():
        raise InputError(f"the {noun} matches the empty text alone; change it.")
    forced = bytes(matcher.compute_ff_bytes())[:_MAX_FORCED]
    fewest = min(vocabulary.min_tokens(forced), vocabulary.min_tokens(b" " + forced))
    if not tokens or fewest == inf:
        raise _unspellable()
    is_exact = any(token.startswith(b" ") for token in tokens)
    after = _matcher(spaced if is_exact else optional, vocabulary, noun)
    return Constraint(matcher, after, vocabulary.eos_token_id, is_exact=is_exact, min_tokens=int(fewest))


def _regex_grammars(pattern: str) -> tuple[str, str, str]:
    """Return grammars of an expression: alone, after a space that may be there, and after a space."""
    from llguidance import LLMatcher

    # The whole text is matched, with anchors or without; llguidance takes them only at the ends of an expression.
    pattern = pattern.removeprefix("^")
    pattern = pattern[:-1] if _ANCHORED.search(pattern) else pattern
    plain, optional, spaced = map(LLMatcher.grammar_from_regex, (pattern, f"[ ]?(?:{pattern})", f"[ ](?:{pattern})"))
    return plain, optional, spaced


def _json_grammars(schema: str) -> tuple[str, str, str]:
    """Return grammars of a JSON schema in the same way. Raises InputError."""
    from llguidance import LLMatcher

    content = json.loads(schema)
    factors = {abs(each) for each in _numbers(content, "multipleOf") if each}
    places = 10 ** -min([0, *(int(each.as_tuple().exponent) for each in factors)])
    if prod(each * places for each in factors) > _MAX_MULTIPLE:
        raise _unusable("JSON schema", f"its values of multipleOf, multiplied, have more than {_MAX_MULTIPLE:,} steps")
    try:
        plain = LLMatcher.grammar_from_json_schema(schema, overrides=_JSON)
    except ValueError as error:
        raise _unusable("JSON schema", str(error)) from error
    body = f"body: %json {json.dumps(content | {'x-guidance': _JSON})}"
    return plain, f'start: " "? body\n{body}', f'start: " " body\n{body}'


def _numbers(content: Any, key: str) -> Iterator[Decimal]:
    """Yield the numbers of a key, at any level."""
    if isinstance(content, list):
        for each in content:
            yield from _numbers(each, key)
    elif isinstance(content, dict):
        for name, value in content.items():
            if name == key and isinstance(value, int | float) and (number := Decimal(str(value))).is_finite():
                yield number
            yield from _numbers(value, key)


def _matcher(grammar: str, vocabulary: _Vocabulary, noun: str) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(initial_lexer_fuel=_MAX_FUEL, max_lexer_states=_MAX_STATES, verbose_errors=False)
    matcher = LLMatcher(vocabulary.library, grammar, log_level=0, limits=limits)
    _check_matcher(matcher, noun)
    return matcher


def _check_matcher(matcher: LLMatcher, noun: str) -> None:
    if matcher.is_error():
        raise _unusable(noun, matcher.get_error())


def _unusable(noun: str, message: str) -> InputError:
    """Return an error with the library's reason, without its quotation of the grammar."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    reason = reason.rpartition('" (in regex): ')[2] or reason
    return InputError(f"the {noun} cannot be used ({reason[:200].rstrip('.')}); change it.")


def _unspellable() -> InputError:
    return InputError("the model has no tokens that spell a text that matches; change the schema or expression.")
