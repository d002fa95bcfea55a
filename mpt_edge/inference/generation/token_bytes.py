"""The bytes that each token of a tokenizer stands for in a generated text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mpt_edge.errors import InputError

#: A byte that no text in UTF-8 has. Before a token's name it marks one that no text may hold.
NO_TEXT = b"\xff"

#: SentencePiece's character for a space.
SPACE = "\u2581"

#: Tokens that are compared with the library's decoding.
_COMPARED = 256


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of each token by its id. Special and added tokens begin with `NO_TEXT`.

    Raises:
        InputError: the tokenizer is neither byte-level nor of SentencePiece's kind.
    """
    settings = json.loads(tokenizer.to_str())
    kinds = list(_decoders(settings["decoder"]))
    names = {kind["type"] for kind in kinds}
    vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    if "ByteLevel" in names:
        spell = _byte_level
    elif "Metaspace" in names or any(_replaces_space(kind) for kind in kinds):
        spell = _sentencepiece
    else:
        raise _unreadable()
    added = {each["id"] for each in settings["added_tokens"]}
    result = [NO_TEXT] * (1 + max(vocabulary.values()))
    for token, number in vocabulary.items():
        result[number] = NO_TEXT + token.encode() if number in added else spell(token)
    _check(tokenizer, result)
    return result


def _decoders(decoder: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a decoder's parts."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for each in decoder["decoders"]:
            yield from _decoders(each)
    else:
        yield decoder


def _replaces_space(decoder: Mapping[str, Any]) -> bool:
    return bool(decoder["type"] == "Replace" and decoder["pattern"] == {"String": SPACE} and decoder["content"] == " ")


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(SPACE, " ").encode()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:  # no token of a text
        return NO_TEXT + token.encode()


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character of byte-level vocabularies, as GPT-2 chose them."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _bytes_of_characters()


def _check(tokenizer: Tokenizer, tokens: Sequence[bytes]) -> None:
    """Compare tokens with what the library makes of them, after another token. Raises InputError."""
    spelled = [number for number, token in enumerate(tokens) if not token.startswith(NO_TEXT)]
    for number in spelled[:: max(1, len(spelled) // _COMPARED)]:
        token = tokens[number]
        try:
            expected = (token + token).decode()
        except UnicodeDecodeError:  # part of a character
            continue
        given = tokenizer.decode([number, number], skip_special_tokens=True)
        if given not in (expected, expected.removeprefix(" ")):
            raise _unreadable()


def _unreadable() -> InputError:
    return InputError(
        "json_schema and regex need a byte-level or SentencePiece tokenizer, and this model's is neither; "
        "leave them out."
    )
