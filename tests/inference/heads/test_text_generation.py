"""Greedy search and beams of exported models against transformers' generate."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.answers import Generation
from mpt_edge.inference.heads.base import Display
from mpt_edge.inference.heads.text_generation import TextGeneration
from tests.inference.heads.conftest import Reference
from tests.support.writers import TEXTS


def test_text_is_that_of_transformers(generative: Any, reference: Reference) -> None:
    answers = generative.task("story")(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        tokens = reference.generate(text, "story", 24)
        assert isinstance(answer, Generation)
        assert answer.new_tokens == len(tokens)
        assert answer.text == reference.decode(tokens).lstrip()
        assert answer.finish == ("length" if len(tokens) == 24 else "eos")
    assert max(len(answer.text) for answer in answers) > 40
    assert generative.task("story")(TEXTS[0]) == answers[0]


def test_beams_are_those_of_transformers(generative: Any, reference: Reference) -> None:
    for text, answer in zip(TEXTS, generative.task("story")(TEXTS, num_beams=3, max_new_tokens=12), strict=True):
        tokens = reference.generate(text, "story", 12, num_beams=3)
        assert answer.text == reference.decode(tokens).lstrip()


@pytest.mark.parametrize("stop", [[" was"], [".", "!"], ["ed to"], ["he"]], ids=str)
def test_beams_end_at_stop_texts_as_those_of_transformers(
    generative: Any, reference: Reference, stop: list[str]
) -> None:
    for text, answer in zip(
        TEXTS, generative.task("story")(TEXTS, num_beams=3, max_new_tokens=20, stop=stop), strict=True
    ):
        tokens = reference.generate(text, "story", 20, num_beams=3, stop_strings=stop, tokenizer=reference.tokenizer)
        whole = reference.decode(tokens)
        ended = [whole.find(one) for one in stop if one in whole]
        assert answer.text == (whole[: min(ended)] if ended else whole).lstrip()
        assert isinstance(answer, Generation)
        assert answer.finish == ("stop" if ended else "length" if len(tokens) == 20 else "eos")


def test_template_around_the_text(generative: Any, reference: Reference) -> None:
    tokens = reference.generate("Question: The cat\nAnswer:", "ask", 24)
    assert generative.task("ask")("The cat").text == reference.decode(tokens).lstrip()


def test_type(generative: Any) -> None:
    head = generative.task("story").head
    assert isinstance(head, TextGeneration)
    assert head.display is Display.BLOCK
    assert head.width(GenerationOptions(num_beams=4)) == 4
    assert head.room(GenerationOptions(max_new_tokens=9)).tokens == 9


PATTERN = "(a|b|c|the|cat|[ .]){3,12}"


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.5}, {"num_beams": 3}, {"temperature": 1.5, "top_k": 5, "repetition_penalty": 1.3}],
    ids=str,
)
def test_constrained_texts_match(generative: Any, options: dict[str, Any]) -> None:
    answers = generative.task("story")(TEXTS, regex=PATTERN, **options)
    for text, answer in zip(TEXTS, answers, strict=True):
        assert re.fullmatch(PATTERN, answer.text)
        assert answer.finish == "eos"
        assert generative.task("story")(text, regex=PATTERN, **options) == answer
    if options.get("num_beams", 1) == 1:
        with generative.task("story").stream(TEXTS[0], regex=PATTERN, **options) as stream:
            assert "".join(stream) == answers[0].text
        assert stream.answer == answers[0]


def test_constrained_texts_are_those_of_transformers(generative: Any, reference: Reference) -> None:
    """Which asks a function for the allowed tokens: here those after which the text begins a text that matches.

    Beams are not compared: where only one text may follow, llguidance allows its usual tokens alone, not each spelling.
    """
    choices, tokenizer = ["the cat", "the dog", "a cat was", "Tom"], reference.tokenizer
    vocabulary, end = range(len(tokenizer)), tokenizer.eos_token_id

    def allowed(_: int, tokens: Any) -> list[int]:
        given = tokens.tolist()
        texts = {token: reference.decode([*given, token]).removeprefix(" ") for token in vocabulary}
        now = reference.decode(given).removeprefix(" ")
        added = set(tokenizer.all_special_ids)
        going = [
            token
            for token, text in texts.items()
            if token not in added and any(each.startswith(text) for each in choices) and (text != now or not given)
        ]
        return going + [end] * (now in choices)

    for text in TEXTS:
        answer = generative.task("story")(text, regex="|".join(choices))
        tokens = reference.generate(text, "story", 24, prefix_allowed_tokens_fn=allowed)
        assert answer.text == reference.decode(tokens).removeprefix(" ")


def test_a_text_that_is_cut_ends_by_its_length(generative: Any) -> None:
    for beams in (1, 2):
        answer = generative.task("story")(TEXTS[0], regex="(a|b){2}( c){30}", max_new_tokens=4, num_beams=beams)
        assert (answer.finish, answer.new_tokens) == ("length", 4)
    with pytest.raises(InputError, match="needs at least"):
        generative.task("story")(TEXTS[0], regex="once " * 40, max_new_tokens=4)


def test_numbers_of_tokens_and_seconds(generative: Any) -> None:
    began = time.perf_counter()
    short, long = generative.task("story")(TEXTS[:2], max_new_tokens=6)
    passed = time.perf_counter() - began
    for text, answer in zip(TEXTS, (short, long), strict=False):
        assert answer.input_tokens == len(generative.texts.encode([text], 99)[0].ids)
        assert 0 < answer.first_token_seconds <= answer.seconds <= passed
    with generative.task("story").stream(TEXTS[0], max_new_tokens=6) as stream:
        next(stream)
        assert stream.answer is None
        list(stream)
    assert stream.answer == short
    assert 0 < stream.answer.first_token_seconds < stream.answer.seconds
