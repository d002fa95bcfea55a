"""Tokens of cut texts are those of whole texts, as the tokenizers library and transformers truncate them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mpt_edge.errors import CorruptFileError
from mpt_edge.inference.tokenization import (
    BoundedTokenizer,
    max_characters,
    pair_lengths,
)

Pair = tuple[str, ...]

WORDS = [
    "the",
    "film",
    "was",
    "witty",
    "and",
    "gorgeous,",
    "dull;",
    "don't",
    "naïve",
    "café",
    "日本語",
    "中文文本",
    "한국어",
    "Ünïcödé",
    "3.14159",
    "2026",
    "U.S.A.",
    "—",
    "…",
    "😀",
    "👩\u200d👩\u200d👧",
    "supercalifragilisticexpialidocious",
    "é",
    "ﬁne",
    "½",
    "[MASK]",
    "</s>",
    "<s>",
    "!",
    "?",
    "!!!",
    "##",
    "▁",
    "\u200b",
    "�",
    "Ω",
    "ال",
]
SPACES = [" ", " ", " ", " ", " ", "  ", "\n", "\t", "   ", " \n ", "\u00a0", "\u3000", "\r\n", "\x1c", "", "", ".\n\n"]
CORPUS = ["the film was witty and gorgeous, dull don't naive cafe 2026 happy sad " * 3, " ".join(WORDS)]


def special(single: str, pair: str, ids: Tokenizer, *tokens: str) -> Any:
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids.token_to_id(token)) for token in tokens]
    )


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=names))
    tokenizer.post_processor = special("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def byte_level(end: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "[MASK]"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    roberta = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    tokenizer.post_processor = roberta if end else processors.ByteLevel(trim_offsets=True)
    return tokenizer


def llama_three() -> Tokenizer:
    tokenizer = byte_level()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), special("<s> $A", "<s> $A <s>:1 $B:1", tokenizer, "<s>")]
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = special("$A </s>", "$A </s> $B </s>", tokenizer, "</s>")
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Return a tokenizer as the first Llama's: no words before BPE, and bytes for unknown characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = tokenizer.model.__getstate__()
    entries = json.loads(state)
    vocabulary = entries["vocab"] | {
        f"<0x{i:02X}>": len(entries["vocab"]) + i for i in range(256) if f"<0x{i:02X}>" not in entries["vocab"]
    }
    merges = [tuple(merge) for merge in entries["merges"]]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    result = Tokenizer(model)
    result.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    result.decoder = decoders.ByteFallback()
    result.add_special_tokens(["<unk>", "<s>", "</s>"])
    result.post_processor = special("<s> $A", "<s> $A <s>:1 $B:1", result, "<s>")
    return result


def bytes_only() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = special("$A </s>", "$A </s> $B </s>", tokenizer, "</s>")
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece": word_piece,
    "byte-level BPE": byte_level,
    "byte-level BPE without special tokens": lambda: byte_level(end=False),
    "byte-level BPE with line breaks": llama_three,
    "Unigram": unigram,
    "SentencePiece BPE": sentence_piece,
    "bytes": bytes_only,
}


@cache
def bounded(kind: str) -> tuple[Tokenizer, BoundedTokenizer]:
    """Return a tokenizer of the library, and ours."""
    tokenizer = KINDS[kind]()
    return tokenizer, BoundedTokenizer(tokenizer.to_str().encode(), kind)


def make_text(rng: random.Random, characters: int) -> str:
    """Return a text of words and spaces of all kinds."""
    parts, size = list[str](), 0
    while size < characters:
        parts.append(rng.choice(WORDS) + rng.choice(SPACES))
        size += len(parts[-1])
    text = "".join(parts)
    return text if rng.random() < 0.9 else " " * rng.randrange(9) + text + " " * rng.randrange(90)


def make_inputs(seed: int, count: int) -> Iterator[tuple[Pair, int]]:
    """Yield texts and pairs with length limits. Many texts are longer than the characters that are read at first."""
    rng = random.Random(seed)  # noqa: S311 - a seeded test
    for _ in range(count):
        max_length = rng.choice([5, 6, 7, 8, 9, 12, 16])
        sizes = [rng.choice([1, 10, 40, 100, 300, 700, 1500]) for _ in range(rng.choice([1, 1, 2]))]
        if len(sizes) == 2:  # the library keeps all combinations of what it cuts off a pair
            sizes = [min(size, 60) for size in sizes]
        yield tuple(make_text(rng, size) for size in sizes), max_length


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_library(kind: str) -> None:
    library, ours = bounded(kind)
    differing = 0
    for texts, max_length in make_inputs(1, 240):
        library.enable_truncation(max_length)
        expected = library.encode(*texts)
        (row,) = ours.encode([texts], max_length, offsets=True)
        assert row.ids == expected.ids, (texts, max_length)
        assert row.types == expected.type_ids
        assert row.truncated == bool(expected.overflowing)
        owners = [-1 if owner is None else owner for owner in expected.sequence_ids]
        assert row.offsets == [(owner, *span) for owner, span in zip(owners, expected.offsets, strict=True)]
        assert ours.encode([texts], max_length) == [row._replace(offsets=[])]
        differing += row.truncated
    assert 60 < differing < 230


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_transformers(kind: str) -> None:
    library, ours = bounded(kind)
    library.no_truncation()
    reference = PreTrainedTokenizerFast(tokenizer_object=library)
    for texts, max_length in make_inputs(2, 30):
        expected = reference(*texts, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
        (row,) = ours.encode([texts], max_length)
        assert (row.ids, row.types) == (expected["input_ids"], expected["token_type_ids"]), (texts, max_length)
    library.no_truncation()


@pytest.mark.parametrize("kind", KINDS)
def test_long_pairs_keep_what_whole_texts_would(kind: str) -> None:
    """Pairs beyond the characters that are read at first, for which the library would need minutes."""
    library, ours = bounded(kind)
    library.no_truncation()
    rng = random.Random(2)  # noqa: S311 - a seeded test
    for _ in range(60):
        pair = make_text(rng, rng.randrange(900)), make_text(rng, rng.randrange(900))
        max_length = rng.randrange(5, 16)
        whole = [library.encode(text, add_special_tokens=False).ids for text in pair]
        counts = [len(ids) for ids in whole]
        room = max_length - library.num_special_tokens_to_add(is_pair=True)
        lengths = counts if sum(counts) <= room else pair_lengths(*counts, room, first_is_longer=counts[0] > counts[1])
        (row,) = ours.encode([pair], max_length, offsets=True)
        kept = [[id_ for id_, span in zip(row.ids, row.offsets, strict=True) if span[0] == i] for i in range(2)]
        assert kept == [ids[:length] for ids, length in zip(whole, lengths, strict=True)], (pair, max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_rows(kind: str) -> None:
    _, ours = bounded(kind)
    inputs = [texts for texts, _ in make_inputs(3, 60)]
    assert ours.encode(inputs, 12) == [ours.encode([texts], 12)[0] for texts in inputs]
    assert ours.encode(inputs, None) == [ours.encode([texts], None)[0] for texts in inputs]


def test_lengths_of_every_pair_are_those_of_the_library() -> None:
    library, _ = bounded("bytes")
    for first, second, max_length in product(range(12), range(12), range(2, 16)):
        library.enable_truncation(max_length)
        room = max_length - 2
        if first + second > room:
            lengths = pair_lengths(first, second, room, first_is_longer=first > second)
            owners = library.encode("a" * first, "b" * second).sequence_ids
            assert lengths == [owners.count(0), owners.count(1)], (first, second, room)


@pytest.mark.parametrize("text", ["a" * 50_000 + " b", " " * 9_000 + "film " * 9_000, "\u200b" * 9_000 + " film" * 900])
def test_a_text_of_few_tokens_is_read_on(text: str) -> None:
    """The second reading finds the words after an endless word, and after characters without tokens."""
    library, ours = bounded("WordPiece")
    library.enable_truncation(300)
    assert ours.encode([(text,)], 300)[0].ids == library.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["!", "中", "a", " ", "a ", "\u200b", "😀"])
def test_few_characters_of_an_endless_text_are_read(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = bounded(kind)
    seen: list[int] = []
    original = BoundedTokenizer._encode

    def encode(self: BoundedTokenizer, texts: list[str], **options: Any) -> Any:
        seen.append(sum(map(len, texts)))
        return original(self, texts, **options)

    monkeypatch.setattr(BoundedTokenizer, "_encode", encode)
    endless = text * 300_000 + "end"
    for texts in ((endless,), (endless, endless)):
        (row,) = ours.encode([texts], 64)
        assert row.truncated
        assert len(row.ids) <= 64
    assert sum(seen) <= 3 * (64 * 32 + max_characters(64))


def test_many_long_texts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = bounded("WordPiece")
    seen: list[int] = []
    original = BoundedTokenizer._encode

    def encode(self: BoundedTokenizer, texts: list[str], **options: Any) -> Any:
        seen.append(sum(map(len, texts)))
        return original(self, texts, **options)

    monkeypatch.setattr(BoundedTokenizer, "_encode", encode)
    rows = ours.encode([("!" * 2048, "?" * 2048)] * 40, 64)
    assert len({tuple(row.ids) for row in rows}) == 1
    assert len(seen) == 2
    assert max(seen) <= 1 << 17


@pytest.mark.parametrize("single", ["$A $A", "<s> $A </s> $A"])
def test_a_text_that_is_not_there_once_is_refused(single: str) -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = special(single, "$A $B", tokenizer, "<s>", "</s>")
    with pytest.raises(CorruptFileError, match="here does not put each text once between special tokens"):
        BoundedTokenizer(tokenizer.to_str().encode(), "here")


def test_a_pair_that_is_turned_around() -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = special("$A", "<s> $B:1 $A </s>", tokenizer, "<s>", "</s>")
    ours = BoundedTokenizer(tokenizer.to_str().encode(), "here")
    for texts, max_length in make_inputs(4, 40):
        tokenizer.enable_truncation(max_length)
        expected = tokenizer.encode(*texts)
        (row,) = ours.encode([texts], max_length)
        assert (row.ids, row.types) == (expected.ids, expected.type_ids)


def test_a_tokenizer_that_knows_no_text() -> None:
    ours = BoundedTokenizer(Tokenizer(models.BPE({}, [])).to_str().encode(), "here")
    assert ours.encode([("a b",), ("a", "b")], 8) == [([], [], False, []), ([], [], False, [])]


def test_a_panic_is_a_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    _, ours = bounded("bytes")

    class Panicking:
        def encode_batch_fast(self, *_: object, **__: object) -> None:
            raise PanicException

    monkeypatch.setattr(ours, "library", Panicking())
    with pytest.raises(CorruptFileError, match="bytes is not a tokenizer file"):
        ours.encode([("a",)], 8)


@pytest.mark.parametrize("form", ["pairs", "lines"])
def test_merges_without_their_prefix_are_refused(form: str) -> None:
    """The library would end the process."""
    entries = json.loads(byte_level().to_str())
    entries["model"]["continuing_subword_prefix"] = "\u0120"
    if form == "lines":
        entries["model"]["merges"] = [" ".join(merge) for merge in entries["model"]["merges"]]
    with pytest.raises(CorruptFileError, match="here is not a tokenizer file"):
        BoundedTokenizer(json.dumps(entries).encode(), "here")
