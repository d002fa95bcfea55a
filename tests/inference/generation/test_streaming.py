"""Streamed text against text decoded at once: whole characters, stop texts, and real tokenizers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from mpt_edge.inference.generation.streaming import TextStream, stop_check
from tests.support.places import SHARED
from tests.support.writers import byte_level

TEXTS = [
    "Hello there, my friend.",
    "héllo 日本語 テスト 한국어",
    "ok 😀👩‍👩‍👧🎉 yes",
    "😀" * 12 + " end",
    "日本語" * 15 + "!",
    "a\n\n b  c",
    " leading",
]
FILES = sorted((SHARED / "weights").rglob("tokenizer.json"))


def byte_fallback() -> Tokenizer:
    """Return a tokenizer like Llama's, which spells most characters in bytes."""
    vocabulary = {"<unk>": 0, **{f"<0x{i:02X}>": i + 1 for i in range(256)}}
    for character in "▁abcdefghijklmnopqrstuvwxyzHO,.!":
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


def streamed(tokenizer: Tokenizer, text: str, before: str) -> None:
    front, ids = (tokenizer.encode(part, add_special_tokens=False).ids for part in (before, text))
    stream = TextStream(tokenizer, front)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    expected = tokenizer.decode([*front, *ids])[len(tokenizer.decode(front)) :]
    assert "".join(pieces) == stream.text == expected
    if "\ufffd" not in expected:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
@pytest.mark.parametrize("before", ["", "Once 😀😀"])
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_come_as_whole_characters(make: Callable[[], Tokenizer], text: str, before: str) -> None:
    streamed(make(), text, before)


@pytest.mark.skipif(not FILES, reason="no ../shared/weights with real tokenizers")
@pytest.mark.parametrize("before", ["", "Once 😀😀"])
@pytest.mark.parametrize("text", TEXTS)
def test_real_tokenizers(text: str, before: str) -> None:
    for file in FILES:
        streamed(Tokenizer.from_file(str(file)), text, before)


def test_a_possible_stop_text_is_held_back() -> None:
    tokenizer = byte_fallback()
    ids = tokenizer.encode("abc end of it", add_special_tokens=False).ids
    stream = TextStream(tokenizer, stop=("end.", "of"))
    pieces = [stream.push(i) for i in ids]
    assert stream.stopped
    assert "".join(pieces) == stream.text == "abc end "
    assert "e" not in pieces  # "e" alone might have become "end."
    assert stream.finish() == ""
    held = TextStream(tokenizer, stop=("item",))
    assert "".join([held.push(i) for i in ids]) == "abc end of "
    assert held.finish() == "it"
    assert not held.stopped


@pytest.mark.parametrize("stop", [("end", "and"), ("and", "end")])
def test_a_token_with_two_stop_texts_ends_at_the_first(stop: tuple[str, ...]) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "this and the end": 1}, unk_token="?"))
    assert TextStream(tokenizer, stop=stop).push(1) == "this "


@pytest.mark.parametrize("stop", [(" abc",), ("c end",), ("of", "end "), ("\N{GRINNING FACE}",), ("\ufffd",), ()])
@pytest.mark.parametrize("before", ["", "Once"])
def test_beams_stop_where_a_stream_does(stop: tuple[str, ...], before: str) -> None:
    tokenizer = byte_fallback()
    front, ids = (tokenizer.encode(text, add_special_tokens=False).ids for text in (before, "abc end 😀 of it"))
    stream, stops = TextStream(tokenizer, front, stop), stop_check(tokenizer, stop, front)
    for position, token in enumerate(ids):
        stream.push(token)
        assert stream.stopped == stops(ids[: position + 1])
        if stream.stopped:
            break


@pytest.mark.parametrize("before", ["", "Once"])
def test_beams_see_a_stop_text_after_a_character_that_their_window_cuts(before: str) -> None:
    """One byte without its character would spoil all bytes that follow it."""
    tokenizer = byte_fallback()
    front, ids = (tokenizer.encode(text, add_special_tokens=False).ids for text in (before, "日本語テスト한국어" * 3))
    stop = ("한국",)
    stream, stops = TextStream(tokenizer, front, stop), stop_check(tokenizer, stop, front)
    for position, token in enumerate(ids, 1):
        stream.push(token)
        assert stops(ids[:position]) == stream.stopped, position
        if stream.stopped:
            break
    assert stream.text.strip() == "日本語テスト"


def test_a_special_token_as_stop_text() -> None:
    """Decoded text never shows it, so its id counts. Text held back is released."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|im_end|>"])
    ids = [*tokenizer.encode("ab", add_special_tokens=False).ids, tokenizer.token_to_id("<|im_end|>")]
    for stop, stopped in ((("bc", "<|im_end|>"), True), (("bc",), False)):
        stream, stops = TextStream(tokenizer, stop=stop), stop_check(tokenizer, stop)
        pieces = [stream.push(token) for token in ids]
        assert ("".join(pieces), stream.stopped) == ("ab" if stopped else "a", stopped)
        assert stops(ids) == stopped
        assert stream.finish() == ("" if stopped else "b")
