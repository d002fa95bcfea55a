"""Reading a model's tokenizer and its mask token.

``tokenizer_config.json`` may say otherwise than ``tokenizer.json``: by ``do_lower_case``,
``add_bos_token`` and others. transformers obeys it, and models and adapters were trained so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mpt_edge._extras import check_installed
from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.training.backbones.byte_tokenizer import BYTE_TOKENIZER, byte_tokenizer
from mpt_edge.training.backbones.locating import ModelSource
from mpt_edge.training.backbones.weights import quiet_transformers

#: SentencePiece models, which transformers converts to a ``tokenizer.json`` with a package of their own.
_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE_FILES)


#: Texts by which two tokenizers are compared: case, accents, scripts, spaces, control characters and punctuation.
_PROBES = (
    "a witty film",
    "Hello World",
    "HELLO hello hElLo",
    "\u00c9cole na\u00efve \u00e0 S\u00e3o Paulo",
    "e\u0301cole with a combining accent",
    "Stra\u00dfe \u01c5 \u0130stanbul",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 and \u4e2d\u6587",
    "\uff21\uff22\uff23 \uff11\uff12\uff13 \ufb01n",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0645\u0631\u062d\u0628\u0627 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600 \U0001f469\u200d\U0001f680\U0001f3fd",
    " a space before",
    "a space after ",
    "two  spaces   three",
    "a tab\tand\na line\r\nor\n\ntwo",
    "a\u00a0hard space, a zero\u200bwidth one, a\u3000wide one",
    "don't, it's; we'll (maybe) [not] {so} <this>",
    "3.14159 1,000,000 2024-01-05 50% $9.99 #tag @name",
    "\u201cquotes\u201d \u2014 and \u2026 dots",
    "https://example.org/a_b?c=d&e=f x@y.org",
    "camelCase snake_case kebab-case",
    "def f(x):\n    return x**2  # a comment",
    "a\x00b\x07c\ufffd",
    "supercalifragilisticexpialidocious",
    "x" * 120,
)


def read_tokenizer(source: ModelSource) -> tuple[bytes, int]:
    """Return the bytes of ``tokenizer.json`` and the id of the padding token.

    The file is taken as it is if transformers gives the same tokens. Otherwise it is saved again as
    transformers reads it. Other tokenizer files are converted to a ``tokenizer.json``.

    Raises:
        CorruptFileError: there is no tokenizer that can be saved in this format.
        MissingExtraError: there is only a SentencePiece model, and its package is not installed.
        UnsupportedModelError: no ``tokenizer.json`` gives the tokens that transformers gives.
    """
    folder = source.folder
    is_bytes = source.read_entries("tokenizer_config.json").get("tokenizer_class") == BYTE_TOKENIZER
    _check_files(folder, is_bytes=is_bytes)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        converted = byte_tokenizer(tokenizer) if is_bytes else _saved(tokenizer)
    except Exception as error:  # each of the many loaders raises errors of its own
        raise CorruptFileError(
            f"{folder} holds no tokenizer that can be saved as tokenizer.json; add the model's tokenizer files."
        ) from error
    file = folder / "tokenizer.json"
    known = [file.read_bytes()] if file.is_file() else []
    # ByT5's own tokenizer has no tokenizer.json, so there are no two to compare.
    data = (known or [converted])[0] if is_bytes else _faithful([*known, converted], tokenizer, folder)
    return data, int(tokenizer.pad_token_id or 0)


def _check_files(folder: Path, *, is_bytes: bool) -> None:
    """Check that there is a tokenizer, and the package that reads it.

    Raises:
        CorruptFileError: there is none. transformers would make up an empty one.
        MissingExtraError: there is only a SentencePiece model, and its package is not installed.
    """
    files = {name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    if not is_bytes and not files:
        raise CorruptFileError(
            f"{folder} holds no tokenizer; add the model's tokenizer files ({', '.join(_TOKENIZER_FILES)})."
        )
    # Without the package, transformers mistakes the file for another format, or makes up an empty tokenizer.
    if not is_bytes and files <= set(_SENTENCEPIECE_FILES):
        check_installed("torch", "sentencepiece")


def _saved(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """Return a tokenizer of transformers as ``tokenizer.json``, without truncation and padding."""
    entries = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(entries | {"truncation": None, "padding": None}, ensure_ascii=False).encode()


def _faithful(files: Sequence[bytes], tokenizer: PreTrainedTokenizerBase, folder: Path) -> bytes:
    """Return the first file that gives the tokens of transformers.

    Raises:
        UnsupportedModelError: none does.
        CorruptFileError: a file is no tokenizer, or the tokenizer reads no text.
    """
    probes = [*_PROBES, *(f"a {token}b{token} c" for token in tokenizer.added_tokens_encoder)]
    pairs = [list(pair) for pair in pairwise(probes)]
    try:
        with quiet_transformers():
            expected = [tokenizer(probes)["input_ids"], tokenizer(pairs)["input_ids"]]
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # entries are used unchecked; a panic of the library is no Exception
        raise CorruptFileError(f"the tokenizer in {folder} reads no text; download the model again.") from error
    for data in files:
        try:
            candidate = Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises bare Exception for any malformed file
            raise CorruptFileError(
                f"{folder / 'tokenizer.json'} is not a tokenizer; download the model again."
            ) from error
        candidate.no_truncation()
        candidate.no_padding()
        if [[each.ids for each in candidate.encode_batch(texts)] for texts in (probes, pairs)] == expected:
            return data
    raise UnsupportedModelError(
        f"transformers reads texts with the tokenizer in {folder} otherwise than tokenizer.json can describe; remove "
        "entries such as split_special_tokens from its tokenizer_config.json, or use another model."
    )


def read_mask(folder: Path) -> MaskToken | None:
    """Return the tokenizer's mask token; None if it has none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    token = tokenizer.mask_token
    return None if token is None else MaskToken(int(tokenizer.mask_token_id), str(token))
