"""ByT5's tokenizer, which is a few lines of Python in transformers, as the `tokenizer.json` that a bundle needs."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerBase

#: What ``tokenizer_config.json`` calls it.
BYTE_TOKENIZER = "ByT5Tokenizer"

# Ids of bytes begin behind the padding, end and unknown token.
_SPECIAL = ("<pad>", "</s>", "<unk>")


def byte_tokenizer(original: PreTrainedTokenizerBase) -> bytes:
    """Return a `tokenizer.json` that gives every text the ids that ByT5's tokenizer gives it.

    The vocabulary holds no character, so all of them fall back to their bytes; sentinels such as ``<extra_id_0>``
    are taken over with their ids.
    """
    vocabulary = {token: i for i, token in enumerate(_SPECIAL)}
    vocabulary |= {f"<0x{byte:02X}>": byte + len(_SPECIAL) for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token=_SPECIAL[2]))
    added = [str(token) for _, token in sorted(original.added_tokens_decoder.items())]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    end = _SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, vocabulary[end])]
    )
    return str(tokenizer.to_str()).encode()
