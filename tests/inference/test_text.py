"""Tokens of texts and pairs: truncation, templates, offsets, and texts that are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.taskfile import Inputs, Side
from mpt_edge.inference.text import Encoded, Offset, Text, TextEncoder, render, validate_text
from mpt_edge.inference.tokenization import max_characters
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone

CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def texts(tiny: EncoderBackbone) -> TextEncoder:
    return TextEncoder(tiny.tokenizer_json, pad_id=9)


@pytest.fixture(scope="module")
def word(tiny: EncoderBackbone) -> dict[str, int]:
    return Tokenizer.from_buffer(tiny.tokenizer_json).get_vocab()


def test_single_text(texts: TextEncoder, word: dict[str, int]) -> None:
    assert texts.encode(["The witty film"], 16) == [
        Encoded([CLS, word["the"], word["witty"], word["film"], SEP], [0] * 5, truncated=False, text="The witty film")
    ]


def test_pair_has_segments(texts: TextEncoder, word: dict[str, int]) -> None:
    (row,) = texts.encode([("good film", "bad")], 16)
    assert row.ids == [CLS, word["good"], word["film"], SEP, word["bad"], SEP]
    assert row.types == [0, 0, 0, 0, 1, 1]
    assert not row.truncated


def test_empty_text_is_special_tokens_alone(texts: TextEncoder) -> None:
    assert texts.encode([""], 16) == [Encoded([CLS, SEP], [0, 0], truncated=False, text="")]


@pytest.mark.parametrize("words", [5, 6, 7, 60])
def test_truncation_is_reported_exactly(texts: TextEncoder, word: dict[str, int], words: int) -> None:
    (row,) = texts.encode([" ".join(["film"] * words)], 8)
    assert row.ids == [CLS, *[word["film"]] * min(words, 6), SEP]
    assert row.truncated == (words > 6)


@pytest.mark.parametrize(Inputs.PAIR, [("film " * 30, "bad"), ("bad", "film " * 30), ("film " * 30, "game " * 30)])
def test_truncation_of_a_pair(texts: TextEncoder, pair: tuple[str, str]) -> None:
    (row,) = texts.encode([pair], 10)
    assert len(row.ids) == len(row.types) == 10
    assert row.truncated
    assert row.ids.count(SEP) == 2
    assert 1 in row.types


def test_shortest_length(texts: TextEncoder) -> None:
    assert texts.encode(["film game"], 3)[0].truncated
    (pair,) = texts.encode([("film", "game")], 3)
    assert pair.ids == [CLS, SEP, SEP]
    assert pair.truncated


def test_lengths_do_not_disturb_each_other(texts: TextEncoder) -> None:
    text = "film " * 30
    assert [len(texts.encode([text], n)[0].ids) for n in (8, 16, 8, 64, 16)] == [8, 16, 8, 32, 16]


def test_characters_cut_off_are_reported(texts: TextEncoder) -> None:
    limit = max_characters(16)
    rows = texts.encode(["film" + " " * (limit - 4), "film" + " " * (limit - 4) + "x"], 16)
    assert [row.truncated for row in rows] == [False, True]
    assert rows[0].ids == rows[1].ids


def test_characters_cut_off_are_reported_everywhere(texts: TextEncoder) -> None:
    """Of a pair, of a text in a template; and they have no offsets."""
    text = "film" + " " * max_characters(16) + "game"
    assert texts.encode([("film", text)], 16)[0].truncated
    assert texts.fit(None, text, 16).truncated
    (row,) = texts.encode([text], 16, offsets=True)
    assert len(row.offsets) == len(row.ids)


@pytest.mark.parametrize(("side", "kept"), [(Side.RIGHT, "film"), (Side.LEFT, "game")])
def test_a_text_of_too_many_characters_keeps_the_right_side(
    texts: TextEncoder, word: dict[str, int], side: Side, kept: str
) -> None:
    row = texts.fit("the {text}", "film " * 400 + "game " * 400, 16, side)
    assert row.ids == [CLS, word["the"], *[word[kept]] * 13, SEP]


@pytest.mark.parametrize(Inputs.PAIR, [False, True])
def test_huge_text_is_quick_and_reported(texts: TextEncoder, pair: bool) -> None:
    huge = "gorgeous film " * 750_000
    assert len(huge) > 10_000_000
    began = time.perf_counter()
    (row,) = texts.encode([("film", huge) if pair else huge], 16)
    assert time.perf_counter() - began < 1
    assert row.truncated
    assert len(row.ids) == 16


@pytest.mark.parametrize("side", Side)
def test_both_texts_of_a_long_pair_are_cut_to_fit_a_template(texts: TextEncoder, side: Side) -> None:
    row = texts.fit("{text} and {text_pair}", ("film " * 50, "game " * 44), 24, side)
    assert row.truncated
    assert len(row.ids) == 24
    alone = texts.encode(["film"], 9)[0].ids[1], texts.encode(["game"], 9)[0].ids[1]
    assert abs(row.ids.count(alone[0]) - row.ids.count(alone[1])) <= 1


@pytest.mark.parametrize("text", ["\N{WOMAN}", "\N{WOMAN}\N{WOMAN} cat"])
def test_a_text_without_room_is_refused(text: str) -> None:
    """One character of four tokens: cutting through it leaves no text, and no token at all without a template."""
    vocabulary = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    encoder = TextEncoder(tokenizer.to_str().encode())
    assert len(encoder.fit(None, text, 40).ids) >= 4
    with pytest.raises(InputError, match="nothing of the text fits into 3 tokens"):
        encoder.fit(None, text, 3)
    with pytest.raises(InputError, match="nothing of the text fits into 6 tokens"):
        encoder.fit("Q: {text}", "\N{WOMAN}", 6, Side.LEFT)


def test_a_text_without_tokens_is_refused() -> None:
    encoder = TextEncoder(Tokenizer(models.BPE({"a": 0}, [])).to_str().encode())
    with pytest.raises(InputError, match="the text has no tokens for this model"):
        encoder.fit(None, "xyz", 8)


def test_pad(texts: TextEncoder) -> None:
    rows = [Encoded([2, 5, 3], [0, 0, 1], truncated=False), Encoded([2, 3], [0, 1], truncated=False)]
    batch = texts.pad(rows)
    np.testing.assert_array_equal(batch.input_ids, [[2, 5, 3], [2, 3, 9]])
    np.testing.assert_array_equal(batch.attention_mask, [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(batch.token_type_ids, [[0, 0, 1], [0, 1, 0]])
    assert {a.dtype.name for a in (batch.input_ids, batch.attention_mask, batch.token_type_ids)} == {"int64"}


def test_own_padding_and_truncation_of_the_file_are_off(tiny: EncoderBackbone) -> None:
    tokenizer = Tokenizer.from_buffer(tiny.tokenizer_json)
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(4)
    rows = TextEncoder(tokenizer.to_str().encode()).encode(["film", "film " * 20], 30)
    assert [len(row.ids) for row in rows] == [3, 22]
    assert not any(row.truncated for row in rows)


def test_threads(texts: TextEncoder) -> None:
    jobs = [("film game " * n, 4 + n % 7) for n in range(1, 60)]
    expected = [texts.encode([text], length) for text, length in jobs]
    fresh = TextEncoder(texts._json, pad_id=9)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda job: fresh.encode([job[0]], job[1]), jobs)) == expected


def test_fingerprint(tiny: EncoderBackbone, texts: TextEncoder) -> None:
    assert texts.fingerprint == tiny.texts.fingerprint
    assert TextEncoder(tiny.tokenizer_json + b" ").fingerprint != texts.fingerprint


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff\x00\x01", b'{"version": "1.0"}'])
def test_no_tokenizer(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"here\.json is not a tokenizer file"):
        TextEncoder(data, source="here.json")


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        (None, "as it is {text}", "as it is {text}"),
        (None, ("a", "b"), ("a", "b")),
        ("Review: {text}", "fine", "Review: fine"),
        ("{text} or {text}", "a", "a or a"),
        ("{text} / {text_pair}", ("a", "b"), "a / b"),
        ("{text_pair}|{text}", ("{text_pair}", "{text}"), "{text}|{text_pair}"),
        ("Say: {text}", "{0} {} {text} {text_pair} %s \\1 \\g<0>", "Say: {0} {} {text} {text_pair} %s \\1 \\g<0>"),
        ("{other} {{text}} {text", "x", "{other} {x} {text"),
    ],
)
def test_render(template: str | None, text: Text, expected: object) -> None:
    assert render(template, text) == expected


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("a", Inputs.TEXT, "a"),
        (" {} ", Inputs.TEXT, " {} "),
        (("a", "b"), Inputs.PAIR, ("a", "b")),
        (["a", "b"], Inputs.PAIR, ("a", "b")),
    ],
)
def test_validate_text(text: object, inputs: Inputs, expected: object) -> None:
    assert validate_text(text, inputs) == expected


@pytest.mark.parametrize(
    ("text", "inputs", "says"),
    [
        ("", Inputs.TEXT, "the text is empty; pass at least one word"),
        (" \n\t", Inputs.TEXT, "the text is empty"),
        (("a", ""), Inputs.PAIR, "the text is empty"),
        (("", "b"), Inputs.PAIR, "the text is empty"),
        ("a", Inputs.PAIR, "this task reads pairs"),
        (["a"], Inputs.TEXT, "this is a list where one text belongs"),
        (["a"], Inputs.PAIR, "this task reads pairs"),
        (("a",), Inputs.PAIR, "this task reads pairs"),
        ((), Inputs.PAIR, "this task reads pairs"),
        (("a", "b"), Inputs.TEXT, "this task reads single texts"),
        ((), Inputs.TEXT, "this task reads single texts"),
        (("a", "b", "c"), Inputs.PAIR, "expected a text or a pair of texts, got tuple"),
        (("a", 3), Inputs.PAIR, "expected a text or a pair"),
        (None, Inputs.TEXT, "got NoneType"),
        (b"a", Inputs.TEXT, "got bytes"),
        (3.5, Inputs.PAIR, "got float"),
        ({"text": "a"}, Inputs.TEXT, "got dict"),
    ],
)
def test_text_that_cannot_be_read(text: object, inputs: Inputs, says: str) -> None:
    with pytest.raises(InputError, match=says):
        validate_text(text, inputs)


def test_offsets_are_those_of_each_text_of_a_pair(texts: TextEncoder) -> None:
    (row,) = texts.encode([("A  Film", "dull, bad")], 7, offsets=True)
    special = Offset(-1, 0, 0)
    words = [Offset(0, 0, 1), Offset(0, 3, 7)], [Offset(1, 0, 4), Offset(1, 4, 5)]
    assert list(row.offsets) == [special, *words[0], special, *words[1], special]
    assert row.truncated
    assert texts.encode(["film"], 7)[0].offsets == ()


@pytest.mark.parametrize("side", Side)
def test_the_text_that_was_kept_beside_a_template(texts: TextEncoder, side: Side) -> None:
    row = texts.fit("the {text}", "film " * 5 + "game " * 5, 8, side)
    assert isinstance(row.text, str)
    assert row.text.split() == ["film" if side is Side.RIGHT else "game"] * 5
    whole = texts.fit("the {text}", "film", 8, side)
    assert (whole.text, whole.truncated) == ("film", False)


def test_words_are_one_token_each(texts: TextEncoder, word: dict[str, int]) -> None:
    assert texts.words(["film", "Game"]) == [word["film"], word["game"]]
    with pytest.raises(InputError, match="'good film' is 2 tokens to this model, and a mask stands for one"):
        texts.words(["film", "good film"])


def test_special_tokens(texts: TextEncoder) -> None:
    assert (texts.special_tokens(pair=False), texts.special_tokens(pair=True)) == (2, 3)
    assert texts.continuations(["", "film"])[0] == []


def test_text_that_is_no_unicode() -> None:
    with pytest.raises(InputError):
        validate_text("half \ud800 surrogate", Inputs.TEXT)


def unigram() -> Tokenizer:
    """Return a tokenizer with a token for a space alone, as those of T5 have."""
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", -9.0), ("\u2581", -3.0), ("a", -1.0)], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def dropping() -> Tokenizer:
    """Return a tokenizer that leaves unknown characters out, as transformers makes of some Llamas."""
    tokenizer = Tokenizer(models.BPE({"\u2581": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def by_words() -> Tokenizer:
    """Return a tokenizer that has a token for a word that it does not know."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, ":": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("make", [unigram, dropping, by_words])
@pytest.mark.parametrize(
    ("text", "is_unknown"),
    [
        ("\U0001f600", True),
        ("\U0001f600 \u65e5\u672c \U0001f61e", True),
        (("\U0001f600", "\u65e5"), True),
        ("a", False),
        ("\U0001f600 a", False),
        (("\U0001f600", "a"), False),
    ],
)
def test_a_text_of_unknown_tokens(make: Callable[[], Tokenizer], text: Text, is_unknown: bool) -> None:
    encoder = TextEncoder(make().to_str().encode())
    template = "a {text}" if isinstance(text, str) else "a {text} a {text_pair}"
    (row,) = encoder.encode([text], 8)
    assert encoder.is_unknown(text, row) is is_unknown
    for side in Side:  # the words of the template do not count
        assert encoder.is_unknown(text, encoder.fit(template, text, 16, side), side) is is_unknown


@pytest.mark.parametrize(("side", "text"), [(Side.RIGHT, "\u65e5 " * 9 + "a"), (Side.LEFT, "a" + " \u65e5" * 9)])
def test_only_the_tokens_that_are_read_count(side: Side, text: str) -> None:
    encoder = TextEncoder(by_words().to_str().encode())
    row = encoder.fit(None, text, 8, side)
    assert row.truncated
    assert encoder.is_unknown(text, row, side)
    assert not encoder.is_unknown(text, encoder.fit(None, text, 20, side), side)


@pytest.mark.parametrize("text", ["\U0001f600", "\u65e5\u672c", "\x00", "\U0001d800"])
def test_byte_level_tokenizers_know_every_text(writer: GenerativeBackbone, text: str) -> None:
    assert not writer.texts.is_unknown(text, writer.texts.encode([text], 64)[0])
