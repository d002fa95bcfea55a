"""Tokens that a model has no row for, which would fail where the first text with one is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.inference.text import TextEncoder


def fitted_tokenizer(tokenizer_json: bytes, pad_id: int, rows: int, folder: Path) -> tuple[bytes, TextEncoder]:
    """Return a tokenizer whose every token has a row in the model's embedding, as bytes and loaded.

    Special tokens beyond the embedding are left out, since models come with some that stand for no text, such as
    Gemma 3's for an image: a text that spells one is then read as letters. A larger embedding is normal.

    Args:
        tokenizer_json: the tokenizer as it was found.
        pad_id: id of its padding token.
        rows: how many rows the embedding has.
        folder: where the model's files lie.

    Raises:
        CorruptFileError: the bytes are no tokenizer.
        UnsupportedModelError: a token that a text can have, or the padding token, has no row.
    """
    source = str(folder / "tokenizer.json")
    texts = TextEncoder(tokenizer_json, pad_id=pad_id, source=source)
    if pad_id >= rows:
        raise UnsupportedModelError(
            f"the padding token in {folder} has id {pad_id}, and its model has rows for ids 0 to {rows - 1}; name "
            "another pad_token in tokenizer_config.json, or resize the model's embedding (resize_token_embeddings)."
        )
    if _largest(texts) < rows:
        return tokenizer_json, texts
    settings = json.loads(tokenizer_json)
    kept = [token for token in settings["added_tokens"] if token["id"] < rows or not token["special"]]
    tokenizer_json = json.dumps(settings | {"added_tokens": kept}, ensure_ascii=False).encode()
    texts = TextEncoder(tokenizer_json, pad_id=pad_id, source=source)
    # A template's tokens keep their ids, whether they are known or not.
    largest = max(_largest(texts), *texts.tokenizer.encode("a", "a").ids)
    if largest >= rows:
        raise UnsupportedModelError(
            f"the tokenizer in {folder} has ids up to {largest}, and its model has rows for 0 to {rows - 1}; use the "
            "tokenizer that it was trained with, or resize the model's embedding (resize_token_embeddings)."
        )
    return tokenizer_json, texts


def end_ids(found: Iterable[int], rows: int, folder: Path) -> tuple[int, ...]:
    """Return which of the tokens that are to end a text the model can write.

    Raises:
        UnsupportedModelError: there are some, and it can write none of them.
    """
    stated = tuple(found)
    ids = tuple(token for token in stated if 0 <= token < rows)
    if stated and not ids:
        raise UnsupportedModelError(
            f"the token that ends a text has id {stated[0]} in {folder}, and its model has rows for ids 0 to "
            f"{rows - 1}; set eos_token_id in config.json, and in generation_config.json where there is one."
        )
    return ids


def check_start(token: int, rows: int, folder: Path) -> None:
    """Refuse a decoder that begins behind a token without a row.

    Raises:
        UnsupportedModelError: the first token lies outside the vocabulary.
    """
    if not 0 <= token < rows:
        raise UnsupportedModelError(
            f"decoder_start_token_id is {token} in {folder}, and its model has rows for ids 0 to {rows - 1}; set it in "
            "config.json, and in generation_config.json where there is one: T5 takes its padding token."
        )


def _largest(texts: TextEncoder) -> int:
    return max(texts.tokenizer.get_vocab().values(), default=-1)
