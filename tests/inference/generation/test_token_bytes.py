"""Bytes of tokens: what the tokenizers library decodes, and tokenizers that are refused."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models

from mpt_edge.errors import InputError
from mpt_edge.inference.generation.token_bytes import NO_TEXT, token_bytes
from tests.support.places import SHARED
from tests.support.small_tokenizers import SENTENCES, byte_level, metaspace


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_bytes_are_those_that_the_library_decodes(make: object) -> None:
    tokenizer = make()  # type: ignore[operator]
    tokens = token_bytes(tokenizer)
    assert len(tokens) == tokenizer.get_vocab_size()
    for text in [*SENTENCES, '{"a": [1, 2]}\n\t日本']:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(tokens[i] for i in ids).decode().removeprefix(" ") == text
    assert tokens[tokenizer.token_to_id("</s>")].startswith(NO_TEXT)


@pytest.mark.parametrize("name", ["tinystories-656k-llama", "tinystories-3m-gptneo", "tokenizers/t5"])
def test_real_tokenizers(name: str) -> None:
    path = SHARED / "weights" / name / "tokenizer.json"
    if not path.is_file():
        pytest.skip("no ../shared/weights")
    tokenizer = Tokenizer.from_file(str(path))
    tokens = token_bytes(tokenizer)
    text = "Once upon a time, there was a little girl."
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(tokens[i] for i in ids).decode().removeprefix(" ") == text


def test_other_tokenizers_are_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(InputError, match="need a byte-level or SentencePiece tokenizer, and this model's is neither"):
        token_bytes(tokenizer)
    changed = byte_level()
    changed.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a", "b")])
    with pytest.raises(InputError, match="neither"):
        token_bytes(changed)
