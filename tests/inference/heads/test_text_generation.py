"""Greedy search and beams of exported models against transformers' generate."""

from __future__ import annotations

from typing import Any

import pytest

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
