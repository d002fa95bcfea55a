"""Reading a model's tokenizer and its mask token."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from mpt_edge._extras import check_installed
from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.training.backbones.byte_tokenizer import BYTE_TOKENIZER, byte_tokenizer
from mpt_edge.training.backbones.locating import ModelSource
from mpt_edge.training.backbones.weights import quiet_transformers

#: SentencePiece models, which transformers converts to a ``tokenizer.json`` with a package of their own.
_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE_FILES)


def read_tokenizer(source: ModelSource) -> tuple[bytes, int]:
    """Return the bytes of ``tokenizer.json`` and the id of the padding token.

    Other tokenizer files are converted to a ``tokenizer.json``.

    Raises:
        CorruptFileError: there is no tokenizer that can be saved in this format.
        MissingExtraError: there is only a SentencePiece model, and its package is not installed.
    """
    folder = source.folder
    is_bytes = source.read_json("tokenizer_config.json").get("tokenizer_class") == BYTE_TOKENIZER
    # transformers makes up an empty tokenizer for a folder without one.
    files = {name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    if not is_bytes and not files:
        raise CorruptFileError(
            f"{folder} holds no tokenizer; add the model's tokenizer files ({', '.join(_TOKENIZER_FILES)})."
        )
    # Without the package, transformers mistakes the file for another format, or makes up an empty tokenizer.
    if not is_bytes and files <= set(_SENTENCEPIECE_FILES):
        check_installed("torch", "sentencepiece")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        converted = byte_tokenizer(tokenizer) if is_bytes else tokenizer.backend_tokenizer.to_str().encode()
    except Exception as error:  # each of the many loaders raises errors of its own
        raise CorruptFileError(
            f"{folder} holds no tokenizer that can be saved as tokenizer.json; add the model's tokenizer files."
        ) from error
    file = folder / "tokenizer.json"
    data = file.read_bytes() if file.is_file() else converted
    return data, int(tokenizer.pad_token_id or 0)


def read_mask(folder: Path) -> MaskToken | None:
    """Return the tokenizer's mask token; None if it has none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    token = tokenizer.mask_token
    return None if token is None else MaskToken(int(tokenizer.mask_token_id), str(token))
