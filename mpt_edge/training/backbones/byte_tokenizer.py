"""ByT5's tokenizer, which is a few lines of Python in transformers, as the `tokenizer.json` that a bundle needs."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

#: What ``tokenizer_config.json`` calls it.
BYTE_TOKENIZER = "ByT5Tokenizer"

# Ids of bytes begin behind the padding, end and unknown token.
_SPECIAL = ("<pad>", "</s>", "<unk>")


def byte_tokenizer(original: PreTrainedTokenizerBase) -> bytes:
    """Return a `tokenizer.json` that gives every text the ids that ByT5's tokenizer gives it.

    The vocabulary is the 256 bytes, each by the character that stands for it in byte-level tokenizers; sentinels such
    as ``<extra_id_0>`` are taken over with their ids. Bytes that make up no character are left out of a text, as in
    transformers.
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
