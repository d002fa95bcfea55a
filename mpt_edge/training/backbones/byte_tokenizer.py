"""ByT5's tokenizer, a few lines of Python in transformers, as a ``tokenizer.json``."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

#: Its class in ``tokenizer_config.json``.
BYTE_TOKENIZER = "ByT5Tokenizer"

# The ids of bytes follow those of the padding, end and unknown tokens.
_SPECIAL = ("<pad>", "</s>", "<unk>")


def byte_tokenizer(original: PreTrainedTokenizerBase) -> bytes:
    """Convert ByT5's tokenizer to a ``tokenizer.json`` that gives the same ids.

    The vocabulary has the 256 bytes, each under its character in byte-level tokenizers. Sentinels such
    as ``<extra_id_0>`` keep their ids. Decoding skips bytes that do not form a character, as
    transformers does.
    """
    vocabulary = {token: i for i, token in enumerate(_SPECIAL)}
    vocabulary |= {character: byte + len(_SPECIAL) for byte, character in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=_SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    added = [token for _, token in sorted(original.added_tokens_decoder.items())]
    tokenizer.add_special_tokens(
        [
            AddedToken(str(token), special=True, normalized=False, lstrip=token.lstrip, rstrip=token.rstrip)
            for token in added
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\ufffd", "")])
    end = _SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, vocabulary[end])]
    )
    return str(tokenizer.to_str()).encode()
