"""Mutations of bytes and of JSON, drawn from a random generator.

JSON is mutated as a tree and written by code of our own, since `json` writes neither duplicate keys nor numbers
of thousands of digits. Texts in it that hold JSON themselves, as metadata of safetensors does, are mutated inside.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from random import Random
from typing import Any

#: Sizes and offsets at the limits of integer types.
_SIZES = [0, 1, 7, 8, 255, 256, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 53, (1 << 63) - 1, 1 << 63]


@dataclass(frozen=True)
class Raw:
    """Text that is written into JSON as it is."""

    text: str


class Pairs(list[tuple[Any, Any]]):
    """Object whose keys may repeat."""


_NUMBERS = [
    *(0, 1, -1, 2, 3, 255, 65504, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 53, (1 << 63) - 1, 1 << 63, 1 << 64),
    *(0.5, -0.0, 1e-45, 1e-308, 3.5e38, 1e308),
    *map(Raw, ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-9999", "01", "+1", "1.", "0x10", "-"]),
    *(Raw("9" * digits) for digits in (20, 310, 4300, 4301, 6000)),
    *map(Raw, ["1." + "0" * 5000 + "1", "1e" + "9" * 4400, "-" + "7" * 5001]),
]

_TEXTS = [
    *("", " ", "0", "-7", "1" * 4400, "1e5", "1_000", "٣", "nan", "inf", "true", "null", "[]", "{}", "a" * 5000),
    *("\x00", "\x1b[31m", "\u202e", "\u009b", "\ud800", "\udfff\ud800", "🙂", "é", "e\u0301", "/etc/passwd", "../x"),
    *("{text}", "{text_pair}", "{text}" * 300, "x.safetensors", "F16", "F32", "F64", "BF16", "I64", "U8", "F8_E4M3"),
    *("similarity", "mask", "classifier", "tokens", "span", "embedding", "generation", "choice", "pair", "left"),
    *("joint", "prefix", "embeddings", "all_layers", "first_layer", "causal", "seq2seq", "encoder", "mean", "cls"),
]

_NESTED = [Raw("[" * depth + "]" * depth) for depth in (50, 500, 3000, 30_000)]
_NESTED += [Raw('{"a":' * depth + "0" + "}" * depth) for depth in (120, 1000, 20_000)]

_CONSTANTS: list[Any] = [
    True,
    False,
    None,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    Raw(""),
    Raw("undefined"),
    Raw("'x'"),
    Raw("/**/1"),
]


def read_json(text: str | bytes) -> Any:
    """Return a tree of JSON, objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def write_json(tree: Any, *, ascii_only: bool = False) -> bytes:
    """Return the tree's JSON; half characters become escapes."""
    parts: list[str] = []
    _write(tree, parts.append, encode_basestring_ascii if ascii_only else encode_basestring)
    text = "".join(parts)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")  # \ud800 is JSON's escape too


def _write(tree: Any, put: Callable[[str], object], quote: Callable[[str], str]) -> None:
    match tree:
        case Raw():
            put(tree.text)
        case str():
            put(quote(tree))
        case Pairs() | dict():
            put("{")
            for i, (key, value) in enumerate(tree if isinstance(tree, Pairs) else tree.items()):
                put("," if i else "")
                _write(key if isinstance(key, str | Raw) else str(key), put, quote)
                put(":")
                _write(value, put, quote)
            put("}")
        case list() | tuple():
            put("[")
            for i, value in enumerate(tree):
                put("," if i else "")
                _write(value, put, quote)
            put("]")
        case _:
            put(json.dumps(tree))


class Mutator:
    """Mutations of one random generator.

    Args:
        random: the generator.
        others: other trees, from which parts are taken.
    """

    def __init__(self, random: Random, others: Sequence[Any] = ()) -> None:
        """Keep the generator."""
        self.random = random
        self.others = others

    def value(self, old: Any = None) -> Any:
        """Return a value to put in the place of another."""
        kind = self.random.random()
        if kind < 0.45:
            return self._near(old)
        if kind < 0.6:
            return self.random.choice(_NUMBERS)
        if kind < 0.8:
            return self.random.choice(_TEXTS)
        if kind < 0.84:
            return self.random.choice(_NESTED)
        if kind < 0.9 and self.others:
            return self._part(self.random.choice(self.others))
        return self.random.choice(_CONSTANTS)

    def _near(self, old: Any) -> Any:  # noqa: PLR0911 - one for each type
        """Return a value of the same type, slightly different."""
        random = self.random
        match old:
            case bool():
                return not old
            case int() if abs(old) < 1 << 70:
                return random.choice([old + 1, old - 1, -old, old * 2, old ^ (1 << random.randrange(40)), str(old)])
            case float() if math.isfinite(old):
                return random.choice([old * 1.001, -old, old * 1e30, round(old), str(old)])
            case str() if old:
                i = random.randrange(len(old))
                other = random.choice([chr(ord(old[i]) ^ 1), "", old[i] * 2, "\u00e9", "\x00"])
                return random.choice([old[:i] + other + old[i + 1 :], old[:i], old + old, old.upper(), [old]])
            case Pairs() if old:
                return Pairs(random.sample(old, random.randrange(len(old) + 1)))
            case list() if old:
                return random.choice([old[1:], old[:-1], old + old, old * 40, old[::-1], [old]])
        return random.choice(_CONSTANTS)

    def _part(self, tree: Any) -> Any:
        """Return a random part of a tree."""
        while isinstance(tree, list) and tree and self.random.random() < 0.8:
            item = self.random.choice(tree)
            tree = item[1] if isinstance(tree, Pairs) else item
        return tree

    def tree(self, tree: Any) -> Any:
        """Return a tree with one mutation somewhere in it."""
        inner = _inner_json(tree) if isinstance(tree, str) and self.random.random() < 0.7 else None
        if inner is not None:
            return write_json(self.tree(inner), ascii_only=self.random.random() < 0.3).decode()
        if not isinstance(tree, list) or not tree or self.random.random() < 0.1:
            return self.value(tree)
        if self.random.random() < 0.3:
            return self._object(tree) if isinstance(tree, Pairs) else self._array(tree)
        items = [item[1] if isinstance(tree, Pairs) else item for item in tree]
        weights = [1 + len(item) ** 0.5 if isinstance(item, list) else 1 for item in items]
        (i,) = self.random.choices(range(len(tree)), weights)
        if isinstance(tree, Pairs):
            key, value = tree[i]
            return Pairs([*tree[:i], (key, self.tree(value)), *tree[i + 1 :]])
        return [*tree[:i], self.tree(tree[i]), *tree[i + 1 :]]

    def text(self, text: str) -> str:
        """Return a text with one mutation; JSON in it is mutated inside."""
        result = self.tree(text)
        if isinstance(result, str):
            return result
        return write_json(result, ascii_only=self.random.random() < 0.3).decode()

    def _object(self, pairs: Pairs) -> Pairs:
        """Return an object with another set of keys."""
        random, result = self.random, Pairs(pairs)
        i, j = random.randrange(len(pairs)), random.randrange(len(pairs))
        (key, value), (other, other_value) = pairs[i], pairs[j]
        match random.randrange(7):
            case 0:
                del result[i]
            case 1:  # a duplicate
                result.insert(
                    random.choice([i, len(pairs)]), (key, random.choice([value, other_value, self.value(value)]))
                )
            case 2:
                result[i], result[j] = (key, other_value), (other, value)
            case 3:
                result[i] = (other, value)
            case 4:
                result[i] = (random.choice([self._near(key), random.choice(_TEXTS)]), value)
            case 5:
                result.append((random.choice(_TEXTS), self.value()))
            case _ if self.others and isinstance(given := random.choice(self.others), Pairs) and given:
                result.append(random.choice(given))
        return result

    def _array(self, array: list[Any]) -> list[Any]:
        """Return an array with other items."""
        random, result = self.random, list(array)
        i = random.randrange(len(array))
        match random.randrange(5):
            case 0:
                del result[i]
            case 1:
                result.insert(i, array[i])
            case 2:
                result.append(self.value(array[i]))
            case 3:
                random.shuffle(result)
            case _:
                result *= random.choice([2, 3, 100])
        return result

    def bytes(self, data: bytes, other: bytes) -> bytes:  # noqa: PLR0911 - one for each kind
        """Return bytes with one mutation.

        Args:
            data: the bytes.
            other: bytes of which a part may be taken.
        """
        random = self.random
        i, count = random.randrange(len(data) + 1), 1 << random.randrange(8)
        match random.randrange(9):
            case 0 | 1 if data:
                i = random.randrange(len(data))
                return data[:i] + bytes([data[i] ^ (1 << random.randrange(8))]) + data[i + 1 :]
            case 2:
                return data[:i]
            case 3:
                return data[:i] + data[i + count :]
            case 4:
                return data[:i] + data[i : i + count] * random.choice([2, 3, 50]) + data[i + count :]
            case 5:
                return data[:i] + random.randbytes(count) + data[i + random.choice([0, count]) :]
            case 6:
                j = random.randrange(len(other) + 1)
                return data[:i] + other[j : random.choice([None, j + count])]
            case 7:
                return (
                    struct.pack("<Q", random.choice([*_SIZES, len(data), max(8, len(data)) - 8, 100_000_000]))
                    + data[8:]
                )
            case _:
                junk = random.choice(
                    [b"\xff", b"\xef\xbb\xbf", b"\x00", b" ", b"\xed\xa0\x80", b"\\ud800", b"9" * 4400]
                )
                return random.choice([data[:i] + junk + data[i:], data + junk, junk + data])


def _inner_json(text: str) -> Any:
    """Return the tree in a text that holds a JSON object or array; None for others."""
    if not text.startswith(("{", "[")) or len(text) > 100_000:
        return None
    try:
        return read_json(text) or None
    except (ValueError, RecursionError):
        return None
