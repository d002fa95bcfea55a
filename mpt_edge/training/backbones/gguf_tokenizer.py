"""A ``tokenizer.json`` from a GGUF file's vocabulary.

A file names its pre-tokenizer after a model instead of describing it. transformers knows few of these
names and reads texts by GPT-2's rule for the others, so that SmolLM's digits stay together. Names that
are not in this table are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.weights import reason

#: Types of tokens in GGUF.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5

#: Rows of the embedding table without a token, as llama.cpp names them.
_PADDING = re.compile(r"\[PAD\d+\]")

#: Space in vocabularies of SentencePiece.
_SPACE = "\u2581"

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Splitting:
    """How a byte-level tokenizer splits a text before it merges."""

    pattern: str | None = None
    """Regular expression of the words; None for GPT-2's."""
    single_digits: bool = False
    """Whether each digit is a word of its own."""
    normalizes: bool = False
    """Whether texts are brought to Unicode's form NFC first."""
    ignores_merges: bool = False
    """Whether a word in the vocabulary is one token, whatever the merges make of it."""
    adds_bos: bool = False
    """Whether a text begins with a token of its own where the file does not say."""

    def pre_tokenizer(self) -> dict[str, Any]:
        """Return the entry of ``tokenizer.json``."""
        steps: list[dict[str, Any]] = [_byte_level(use_regex=self.pattern is None)]
        if self.single_digits:
            steps.insert(0, {"type": "Digits", "individual_digits": True})
        if self.pattern is not None:
            pattern = {"Regex": self.pattern}
            steps.insert(0, {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


_GPT2, _DIGITS = _Splitting(), _Splitting(single_digits=True)
_LLAMA3 = _Splitting(_LLAMA3_SPLIT, ignores_merges=True, adds_bos=True)
_QWEN2 = _Splitting(_QWEN2_SPLIT, normalizes=True)
_TEKKEN = _Splitting(_TEKKEN_SPLIT, ignores_merges=True, adds_bos=True)

#: Names of pre-tokenizers, as llama.cpp gives them to the supported architectures.
_SPLITTINGS: Mapping[str, _Splitting] = {
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}


def read_gguf_tokenizer(file: GgufFile) -> tuple[bytes, int]:
    """Return the bytes of a ``tokenizer.json`` and the id of the padding token.

    Raises:
        UnsupportedModelError: its type of tokenizer, or of pre-tokenizer, is not supported.
        CorruptFileError: the vocabulary is missing or damaged.
    """
    tokens = file.values("tokenizer.ggml.tokens", str)
    if not tokens:
        raise CorruptFileError(f"{file.path} holds no vocabulary; use a file that does.")
    kind = file.value("tokenizer.ggml.model", str)
    if kind == "gpt2":
        parts, adds_bos = _byte_level_parts(file, tokens)
    elif kind == "llama":
        parts, adds_bos = _sentencepiece_parts(file, tokens)
    else:
        raise UnsupportedModelError(
            f"{file.path} has a tokenizer of type {kind!r}, which is not read from GGUF; use the folder of the model "
            "that it was made from."
        )
    settings = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added_tokens(file, parts["model"]["vocab"])),
        "post_processor": _post_processor(file, tokens, adds_bos=adds_bos),
        **parts,
    }
    pad = file.value("tokenizer.ggml.padding_token_id", int, 0)
    data = json.dumps(settings, ensure_ascii=False).encode()
    try:
        Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception for any malformed entry
        raise CorruptFileError(
            f"{file.path} holds a vocabulary that makes no tokenizer ({reason(error)}); download the file again."
        ) from error
    return data, pad


def special_token(file: GgufFile, name: str) -> str | None:
    """Return the text of a special token, such as ``bos``; None for one that the file does not name.

    Raises:
        CorruptFileError: its id is outside the vocabulary.
    """
    token = file.value(f"tokenizer.ggml.{name}_token_id", int, -1)
    tokens = file.values("tokenizer.ggml.tokens", str)
    if token >= len(tokens):
        raise CorruptFileError(
            f"{file.path} names token {token} as {name}, and its vocabulary has {len(tokens)}; download the file again."
        )
    return None if token < 0 else tokens[token]


def _byte_level_parts(file: GgufFile, tokens: list[str]) -> tuple[dict[str, Any], bool]:
    """Return the entries of a byte-level tokenizer, and whether it adds a first token by default."""
    name = file.value("tokenizer.ggml.pre", str, "")
    splitting = _SPLITTINGS.get(name)
    if splitting is None:
        stated = f"splits texts as {name!r} does" if name else "does not state how it splits texts"
        raise UnsupportedModelError(
            f"{file.path} {stated}, and its tokens can be made only for {', '.join(_SPLITTINGS)}; use a newer file, or "
            "the folder of the model that it was made from."
        )
    merges = [merge.split(" ") for merge in file.values("tokenizer.ggml.merges", str)]
    model = _bpe(_vocabulary(file, tokens), merges) | {"ignore_merges": splitting.ignores_merges}
    parts = {
        "normalizer": {"type": "NFC"} if splitting.normalizes else None,
        "pre_tokenizer": splitting.pre_tokenizer(),
        "decoder": _byte_level(use_regex=True),
        "model": model,
    }
    return parts, splitting.adds_bos


def _sentencepiece_parts(file: GgufFile, tokens: list[str]) -> tuple[dict[str, Any], bool]:
    """Return the entries of a SentencePiece tokenizer, and whether it adds a first token by default."""
    is_gemma = file.architecture.startswith("gemma")
    if is_gemma:  # a run of spaces is written out, and is merged from single ones
        tokens = [_SPACE * len(token) if " " in token and not token.strip(" ") else token for token in tokens]
    vocabulary = _vocabulary(file, tokens)
    if is_gemma:  # its scores are not in the order of the merges, and its tokens are
        scores: Mapping[str, float] = {token: -index for token, index in vocabulary.items()}
    else:
        scores = dict(zip(tokens, _scores(file, len(tokens)), strict=True))
    adds_space = file.value("tokenizer.ggml.add_space_prefix", bool, not is_gemma)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if adds_space else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []),
    ]
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    model = _bpe(vocabulary, _merges(vocabulary, scores))
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": split if is_gemma else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model | {"unk_token": special_token(file, "unknown"), "fuse_unk": True, "byte_fallback": True},
    }
    return parts, True


def _scores(file: GgufFile, count: int) -> list[float]:
    """Return the scores of all tokens. Raises CorruptFileError."""
    scores = file.values("tokenizer.ggml.scores", float)
    if len(scores) != count:
        raise CorruptFileError(f"{file.path} has {count} tokens and {len(scores)} scores; download the file again.")
    return scores


def _merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[list[str]]:
    """Return all pairs of tokens that make a token, those of the best one first.

    Pairs that make the same token, or tokens of the same score, are in the order in which transformers
    converts a SentencePiece model.
    """
    pairs = []
    for token in vocabulary:
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in halves if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        pairs += [(scores[token], *pair) for pair in known]
    pairs.sort(key=lambda each: (each[0], len(each[1]), len(each[2])), reverse=True)
    return [[left, right] for _, left, right in pairs]


def _vocabulary(file: GgufFile, tokens: list[str]) -> dict[str, int]:
    """Return the ids of tokens, without those that fill an embedding table. Raises CorruptFileError."""
    types = file.values("tokenizer.ggml.token_type", int) or [0] * len(tokens)
    if len(types) != len(tokens):
        raise CorruptFileError(f"{file.path} has {len(tokens)} tokens and {len(types)} types; download the file again.")
    return {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind != _UNUSED or _PADDING.fullmatch(token) is None
    }


def _added_tokens(file: GgufFile, vocabulary: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield tokens that are found in a text before anything else."""
    types = file.values("tokenizer.ggml.token_type", int)
    for token, kind in zip(file.values("tokenizer.ggml.tokens", str), types, strict=False):
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) and token in vocabulary:
            yield {
                "id": vocabulary[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }


def _post_processor(file: GgufFile, tokens: list[str], *, adds_bos: bool) -> dict[str, Any] | None:
    """Return the entry for tokens around a text; None for a tokenizer that adds none. Raises CorruptFileError."""
    around = []
    for name, default in (("bos", adds_bos), ("eos", False)):
        is_added = file.value(f"tokenizer.ggml.add_{name}_token", bool, default)
        around.append(special_token(file, name) if is_added else None)
    if around == [None, None]:
        return None

    def sequence(name: str, segment: int) -> list[dict[str, Any]]:
        parts = [around[0] and {"SpecialToken": {"id": around[0], "type_id": segment}}]
        parts += [{"Sequence": {"id": name, "type_id": segment}}]
        parts += [around[1] and {"SpecialToken": {"id": around[1], "type_id": segment}}]
        return [part for part in parts if part]

    special = {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in around if token}
    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": special,
    }


def _bpe(vocabulary: Mapping[str, int], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges,
    }


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
