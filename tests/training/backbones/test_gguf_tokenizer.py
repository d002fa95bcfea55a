"""Tokens of GGUF vocabularies against the tokenizers that they were taken from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from mpt_edge.errors import CorruptFileError, UnsupportedModelError
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.gguf_tokenizer import read_gguf_tokenizer, special_token
from tests.support.checkpoints import assert_one_sentence
from tests.support.gguf import VOCABULARY, write
from tests.support.places import SHARED

PIECES = (
    "the quick brown fox",
    "Hello",
    "HELLO hello",
    "don't we'll IT'S",
    "12345",
    "3.14159",
    "1,000,000",
    "2024-01-05",
    "def f(x):\n\treturn x**2  # note",
    "for (int i=0;i<10;++i){}",
    "a_b-c/d\\e",
    "\xc9cole",
    "e\u0301cole na\xefve",
    "Stra\xdfe",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\u4e2d\u6587",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0645\u0631\u062d\u0628\u0627 \u0661\u0662\u0663",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\U0001f600",
    "\U0001f469\u200d\U0001f680\U0001f3fd",
    " ",
    "  ",
    "    ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "\xa0",
    "\u3000",
    "<|im_start|>",
    "<think>",
    "?!",
    "...",
    "\u201cquotes\u201d \u2014",
    "\xbd \u2167 \uff11\uff12",
    "x" * 20,
)


def mixed_texts(count: int) -> list[str]:
    """Return texts of digits, code, emoji and several scripts, in random order."""
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(PIECES, rng.integers(1, 13))) for _ in range(count)]


def bytes_of(path: Path, entries: dict[str, Any]) -> tuple[bytes, int]:
    """Write a file of metadata alone, and read its tokenizer."""
    return read_gguf_tokenizer(GgufFile.open(write(path / "a.gguf", entries)))


def load(path: Path, entries: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_buffer(bytes_of(path, entries)[0])


def trained(pre_tokenizer: Any, normalizer: Any = None, *, ignore_merges: bool = False) -> Tokenizer:
    """Train a byte-level tokenizer with a special token, and one that is not special, on the mixed texts."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|im_start|>"], show_progress=False
    )
    tokenizer.train_from_iterator(mixed_texts(300), trainer)
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def metadata(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    """Return what llama.cpp's converter keeps of a byte-level tokenizer."""
    settings = json.loads(tokenizer.to_str())
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = {"<|im_start|>": 3, "<think>": 4}
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in settings["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": ids["<|im_start|>"],
    }


def split(name: str) -> Any:
    pattern = Regex(GGUF_PRE_TOKENIZER_SPLITS[name])
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ])  # fmt: skip


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTE_LEVEL = {
    "gpt-2": lambda: trained(GPT2),
    # As the tokenizer.json of SmolLM and SmolLM2 have it.
    "smollm": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "qwen2": lambda: trained(split("qwen2"), normalizers.NFC()),
    "llama-bpe": lambda: trained(split("llama-bpe"), ignore_merges=True),
    "tekken": lambda: trained(split("tekken"), ignore_merges=True),
}


@pytest.mark.parametrize("pre", list(BYTE_LEVEL))
def test_byte_level_tokens(tmp_path: Path, pre: str) -> None:
    original = BYTE_LEVEL[pre]()
    tokenizer = load(tmp_path, metadata(original, pre) | {"tokenizer.ggml.add_bos_token": False})
    texts = mixed_texts(2000)
    expected = [each.ids for each in original.encode_batch(texts)]
    assert [each.ids for each in tokenizer.encode_batch(texts)] == expected
    assert tokenizer.decode_batch(expected[:200], skip_special_tokens=False) == [
        original.normalizer.normalize_str(text) if original.normalizer else text for text in texts[:200]
    ]


def test_digits_of_smollm_are_single(tmp_path: Path) -> None:
    # transformers reads this file's numbers by GPT-2's rule.
    tokenizer = load(tmp_path, metadata(BYTE_LEVEL["gpt-2"](), "smollm"))
    words = tokenizer.pre_tokenizer.pre_tokenize_str("in 12345")
    assert [word for word, _ in words] == ["in", "\u0120", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("pre", "stated", "expected"),
    [("smollm", None, 0), ("llama-bpe", None, 1), ("llama-bpe", False, 0), ("qwen2", True, 1)],
)
def test_first_token(tmp_path: Path, pre: str, stated: bool | None, expected: int) -> None:
    original = trained(GPT2)
    tokenizer = load(tmp_path, metadata(original, pre) | {"tokenizer.ggml.add_bos_token": stated})
    assert tokenizer.encode("a").tokens == ["<|im_start|>"] * expected + ["a"]
    assert tokenizer.encode("a", "a").tokens == (["<|im_start|>"] * expected + ["a"]) * 2


def sentencepiece_model(**options: Any) -> sentencepiece.SentencePieceProcessor:
    """Train a model as Llama's and Gemma's are: pairs of characters, and bytes for all others."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(mixed_texts(300)), model_writer=model, model_type="bpe", vocab_size=600,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, **options,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def piece_metadata(model: sentencepiece.SentencePieceProcessor, architecture: str) -> dict[str, Any]:
    """Return what llama.cpp's converter keeps of a SentencePiece model."""
    ids = range(model.get_piece_size())
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in ids]
    return {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_sentencepiece_tokens(tmp_path: Path, architecture: str) -> None:
    model = sentencepiece_model(add_dummy_prefix=architecture == "llama")
    tokenizer = load(tmp_path, piece_metadata(model, architecture))
    texts = mixed_texts(2000)
    expected = [[model.bos_id(), *ids] for ids in model.encode(texts)]
    assert [each.ids for each in tokenizer.encode_batch(texts)] == expected
    assert tokenizer.decode_batch(expected[:200]) == texts[:200]


@pytest.mark.skipif(not (SHARED / "weights" / "tinystories-656k-llama").is_dir(), reason="needs the model's weights")
def test_real_vocabulary(tmp_path: Path) -> None:
    data = (SHARED / "weights" / "tinystories-656k-llama" / "tokenizer.json").read_bytes()
    original, vocabulary = Tokenizer.from_buffer(data), json.loads(data)["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    entries = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (len(tokens) - 3)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer, texts = load(tmp_path, entries), [*mixed_texts(1000), "Once upon a time, there was a girl."]
    assert [each.ids for each in tokenizer.encode_batch(texts)] == [each.ids for each in original.encode_batch(texts)]


def test_runs_of_spaces_in_gemma(tmp_path: Path) -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "\u2581", "  ", "   "]
    entries = {
        "general.architecture": "gemma3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 2, 1, 1, 4, 4],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.unknown_token_id": 3,
    }
    assert load(tmp_path, entries).encode("a   a  a a").ids == [4, 7, 4, 6, 4, 5, 4]


def test_padding_of_the_table_is_no_token(tmp_path: Path) -> None:
    entries = metadata(trained(GPT2), "smollm")
    entries["tokenizer.ggml.tokens"] = [*entries["tokenizer.ggml.tokens"], "[PAD702]", "<unused0>"]
    entries["tokenizer.ggml.token_type"] = [*entries["tokenizer.ggml.token_type"], 5, 5]
    vocabulary = load(tmp_path, entries).get_vocab()
    assert "[PAD702]" not in vocabulary
    assert vocabulary["<unused0>"] == len(vocabulary)


def test_padding_token_and_special_ones(tmp_path: Path) -> None:
    entries = VOCABULARY | {"general.architecture": "llama", "tokenizer.ggml.padding_token_id": 7}
    assert bytes_of(tmp_path, entries)[1] == 7
    file = GgufFile.open(tmp_path / "a.gguf")
    assert [special_token(file, name) for name in ("bos", "eos", "unknown")] == ["<s>", "</s>", None]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, UnsupportedModelError, "has a tokenizer of type 'bert', which is not read"),
        ({"tokenizer.ggml.pre": "bloom"}, UnsupportedModelError, "splits texts as 'bloom' does, and its tokens can be"),
        ({"tokenizer.ggml.pre": None}, UnsupportedModelError, "does not state how it splits texts"),
        ({"tokenizer.ggml.tokens": None}, CorruptFileError, "holds no vocabulary"),
        ({"tokenizer.ggml.token_type": [1]}, CorruptFileError, "has 96 tokens and 1 types"),
        ({"tokenizer.ggml.model": "llama"}, CorruptFileError, "has 96 tokens and 0 scores"),
        (
            {"tokenizer.ggml.bos_token_id": 96, "tokenizer.ggml.add_bos_token": True},
            CorruptFileError,
            "names token 96 as bos, and its vocabulary has 96",
        ),
    ],
)
def test_vocabularies_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        bytes_of(tmp_path, VOCABULARY | {"general.architecture": "llama"} | changes)
    assert_one_sentence(caught.value, "a.gguf", message)
