"""Reject tokens outside the embedding table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mpt_edge.errors import UnsupportedModelError
from mpt_edge.inference.text import TextEncoder


def fit_tokenizer(tokenizer_json: bytes, pad_id: int, size: int, folder: Path) -> tuple[bytes, TextEncoder]:
    """Return a tokenizer, as bytes and loaded, with all tokens inside the embedding table.

    Special tokens outside the table are removed, since models may have some that no text needs, such
    as Gemma 3's for an image. A text that contains one is then read as letters. A larger table is
    normal.

    Args:
        tokenizer_json: the model's tokenizer.
        pad_id: id of its padding token.
        size: number of tokens in the embedding table.
        folder: folder of the model's files, for messages.

    Raises:
        CorruptFileError: the bytes are not a tokenizer.
        UnsupportedModelError: the padding token, or a token that texts can have, is outside the table.
    """
    source = str(folder / "tokenizer.json")
    texts = TextEncoder(tokenizer_json, pad_id=pad_id, source=source)
    if pad_id >= size:
        raise UnsupportedModelError(
            f"the padding token in {folder} has id {pad_id}, and its model has embeddings for ids 0 to {size - 1}; "
            "name another pad_token in tokenizer_config.json, or resize the model's embedding "
            "(resize_token_embeddings)."
        )
    if _max_id(texts) < size:
        return tokenizer_json, texts
    settings = json.loads(tokenizer_json)
    kept = [token for token in settings["added_tokens"] if token["id"] < size or not token["special"]]
    tokenizer_json = json.dumps(settings | {"added_tokens": kept}, ensure_ascii=False).encode()
    texts = TextEncoder(tokenizer_json, pad_id=pad_id, source=source)
    # The post-processor's tokens keep their ids, known or not.
    largest = max(_max_id(texts), *texts.tokenizer.encode("a", "a").ids)
    if largest >= size:
        raise UnsupportedModelError(
            f"the tokenizer in {folder} has ids up to {largest}, and its model has embeddings for ids 0 to {size - 1}; "
            "use the tokenizer that it was trained with, or resize the model's embedding (resize_token_embeddings)."
        )
    return tokenizer_json, texts


def end_ids(stated: Iterable[int], size: int, folder: Path) -> tuple[int, ...]:
    """Return the end tokens inside the embedding table.

    Args:
        stated: end tokens of the configuration.
        size: number of tokens in the embedding table.
        folder: folder of the model's files, for messages.

    Raises:
        UnsupportedModelError: all of several stated tokens are outside.
    """
    tokens = tuple(stated)
    ids = tuple(token for token in tokens if 0 <= token < size)
    if tokens and not ids:
        raise UnsupportedModelError(
            f"the token that ends a text has id {tokens[0]} in {folder}, and its model has embeddings for ids 0 to "
            f"{size - 1}; set eos_token_id in config.json, and in generation_config.json where there is one."
        )
    return ids


def check_start(token: int, size: int, folder: Path) -> None:
    """Check that the decoder's first token is inside the embedding table.

    Raises:
        UnsupportedModelError: it is outside.
    """
    if not 0 <= token < size:
        raise UnsupportedModelError(
            f"decoder_start_token_id is {token} in {folder}, and its model has embeddings for ids 0 to {size - 1}; set "
            "it in config.json, and in generation_config.json where there is one: T5 takes its padding token."
        )


def _max_id(texts: TextEncoder) -> int:
    return max(texts.tokenizer.get_vocab().values(), default=-1)
