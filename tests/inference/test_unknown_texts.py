"""Texts without any known token are answered, and every kind of answer says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.heads import Classifier, Embedding, Span, Tokens
from mpt_edge.inference.text import Text, TextEncoder
from tests.support.heads import compose, linear_head, make_file, make_row

UNKNOWN = "\U0001f600 \u65e5\u672c"


@pytest.fixture
def model(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


def test_answers_of_labels(model: EncoderModel) -> None:
    answers = model.run([UNKNOWN, "a film", f"{UNKNOWN} film", "\u65e5"], ["topic", "topic", "sentiment", "sentiment"])
    assert [answer.unknown for answer in answers] == [True, False, False, True]
    assert [answer.to_dict().get("unknown") for answer in answers] == [True, None, None, True]
    assert model.task("topic")(UNKNOWN).unknown


@pytest.mark.parametrize(
    ("text", "is_unknown"), [((UNKNOWN, UNKNOWN), True), ((UNKNOWN, "a film"), False), (("a", UNKNOWN), False)]
)
def test_a_pair_is_one_text(model: EncoderModel, text: Text, is_unknown: bool) -> None:
    assert model.task("same")(text).unknown is is_unknown


@pytest.mark.parametrize("template", ["the film {text} was", "{text}", "\U0001f600 {text}"])
def test_words_of_a_template_are_none_of_the_text(model: EncoderModel, tmp_path: Path, template: str) -> None:
    file = replace(model.task("topic").file, name="templated", template=template)
    file.save(tmp_path / "task.safetensors")
    task = model.add_task(tmp_path / "task.safetensors")
    assert [answer.unknown for answer in task([UNKNOWN, "a film"])] == [True, False]


def test_a_text_whose_known_words_are_cut_off(model: EncoderModel) -> None:
    answer = model.task("topic")("\u65e5 " * 20 + "film")
    assert (answer.truncated, answer.unknown) == (True, True)


def test_vectors(model: EncoderModel, tmp_path: Path) -> None:
    file = replace(model.task("topic").file, name="vector", head_type="embedding", labels=(), label_texts=())
    file.save(tmp_path / "task.safetensors")
    assert [answer.unknown for answer in model.add_task(tmp_path / "task.safetensors")([UNKNOWN, "a"])] == [True, False]


@pytest.mark.parametrize("is_unknown", [True, False])
def test_every_head_of_one_text_says_so(is_unknown: bool) -> None:
    row = replace(make_row(("q", "c"), [(-1, 0, 0), (0, 0, 1), (1, 0, 1)]), unknown=is_unknown)
    logits, nothing = np.zeros((3, 2), np.float32), None
    labeled = {head: make_file(head.name, ("a", "b")) for head in (Classifier, Tokens)}
    classifier, tokens = (
        head.prepare(compose(file, linear_head(2)), nothing)  # type: ignore[arg-type]
        for head, file in labeled.items()
    )
    span = Span.prepare(compose(make_file("span"), linear_head(2)), nothing)  # type: ignore[arg-type]
    embedding = Embedding.prepare(compose(make_file("embedding"), None), nothing)  # type: ignore[arg-type]
    answers = [
        classifier.answer(logits[0], row),
        tokens.answer(logits, row),
        span.answer(logits, row),
        span.answer(logits[:2], replace(row, offsets=row.offsets[:2])),
        embedding.answer(logits[0], row),
    ]
    assert [answer.unknown for answer in answers] == [is_unknown] * 5


@pytest.mark.parametrize("is_unknown", [True, False])
def test_generated_texts_streams_and_choices(
    writer_bundle: Path, monkeypatch: pytest.MonkeyPatch, is_unknown: bool
) -> None:
    """The small model's tokenizer knows every byte, so another one is imitated."""
    monkeypatch.setattr(TextEncoder, "is_unknown", lambda *_: is_unknown)
    model = mpt_edge.load(writer_bundle, threads=1)
    story = model.task("story")
    stream = story.stream("The cat", max_new_tokens=2)
    assert stream.unknown is is_unknown
    list(stream)
    answers = [story("The cat", max_new_tokens=2), story("The cat", max_new_tokens=2, num_beams=2), stream.answer]
    answers.append(model.task("mood")("The cat"))
    assert [answer is not None and answer.unknown for answer in answers] == [is_unknown] * 4
