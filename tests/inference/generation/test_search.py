"""Greedy search and sampling against transformers' generate on random models."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel

from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.generation.search import GeneratedRow, generate
from mpt_edge.inference.generation.streaming import TextStream
from mpt_edge.training.backbones.causal import PromptedCausal
from tests.support import causal
from tests.support.decodings import opened
from tests.support.searches import EOS, TEXTS, reference


def letters() -> Tokenizer:
    """Return a tokenizer with one token per letter."""
    tokenizer = Tokenizer(
        models.WordLevel({chr(0x4E00 + i): i for i in range(causal.SIZES["vocab_size"])}, unk_token=chr(0x4E00))
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def greedy(model: PromptedCausal, texts: list[list[int]], options: GenerationOptions) -> list[GeneratedRow]:
    decoding, logits = opened(model, texts)
    rows = [GeneratedRow(TextStream(letters(), stop=options.stop), options, history=text) for text in texts]
    pieces: dict[int, str] = {}
    for number, piece in generate(decoding, logits, rows, EOS):
        pieces[number] = pieces.get(number, "") + piece
    assert [pieces.get(i, "") for i in range(len(rows))] == [row.stream.text for row in rows]
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 20},
        {"max_new_tokens": 1},
        {"max_new_tokens": 20, "repetition_penalty": 1.7},
        {"max_new_tokens": 20, "min_new_tokens": 12},
    ],
    ids=str,
)
def test_greedy_tokens_are_those_of_transformers(
    pair: tuple[PreTrainedModel, PromptedCausal], options: dict[str, float]
) -> None:
    rows = greedy(pair[1], TEXTS, GenerationOptions(**options))
    for row, text in zip(rows, TEXTS, strict=True):
        assert row.stream.tokens == reference(pair[0], text, **options)
        assert row.finish == ("length" if len(row.stream.tokens) == options["max_new_tokens"] else "eos")


def test_a_sampled_text_does_not_depend_on_its_batch(pair: tuple[PreTrainedModel, PromptedCausal]) -> None:
    options = GenerationOptions(max_new_tokens=15, temperature=1.2, seed=5)
    together = greedy(pair[1], TEXTS, options)
    for row, text in zip(together, TEXTS, strict=True):
        alone = greedy(pair[1], [text], options)[0]
        assert row.stream.tokens == alone.stream.tokens
    other = greedy(pair[1], TEXTS, GenerationOptions(max_new_tokens=15, temperature=1.2, seed=6))
    assert [row.stream.tokens for row in other] != [row.stream.tokens for row in together]


def test_stop_text_ends_a_row_and_is_no_part_of_it(pair: tuple[PreTrainedModel, PromptedCausal]) -> None:
    free = greedy(pair[1], TEXTS, GenerationOptions(max_new_tokens=12))
    whole = free[0].stream.text
    stop = whole[3:5]
    stopped = greedy(pair[1], TEXTS, GenerationOptions(max_new_tokens=12, stop=(stop,)))
    assert stopped[0].finish == "stop"
    assert stopped[0].stream.text == whole[: whole.index(stop)]


@pytest.mark.parametrize("limit", [2, 9])
def test_held_back_text_comes_at_the_end(limit: int) -> None:
    """By the limit or by the token that ends a text: "a" was no stop text after all, and "end" is one."""
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "x": 1, "a": 2, "end\ufffd": 3}, unk_token="</s>"))
    tokenizer.decoder = decoders.Fuse()
    for token, text, finish in ((2, "xa", "length" if limit == 2 else "eos"), (3, "x", "stop")):
        row = GeneratedRow(TextStream(tokenizer, stop=("ab", "end")), GenerationOptions(max_new_tokens=limit))
        taken = [row.take(np.eye(4, dtype=np.float32)[i], (0,))[1] for i in (1, token, 0)[: min(limit, 3)]]
        assert ("".join(taken), row.stream.text, row.finish) == (text, text, finish)


def test_a_piece_comes_before_the_next_step(pair: tuple[PreTrainedModel, PromptedCausal]) -> None:
    """A reader of a stream does not wait for a token that it has not seen yet."""
    decoding, logits = opened(pair[1], TEXTS[:1])
    steps, step = [0], decoding.step
    decoding.step = lambda tokens: steps.__setitem__(0, steps[0] + 1) or step(tokens)  # type: ignore[method-assign]
    row = GeneratedRow(TextStream(letters()), GenerationOptions(max_new_tokens=8), history=TEXTS[0])
    seen = [(steps[0], len(row.stream.tokens)) for _ in generate(decoding, logits, [row], EOS)]
    assert len(seen) > 3
    assert all(taken == tokens - 1 for taken, tokens in seen)
    assert seen[0] == (0, 1)
