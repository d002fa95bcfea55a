"""Choice of the likeliest label text against transformers' log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from tokenizers import Tokenizer

import mpt_edge
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.bundle import Bundle
from tests.inference.heads.conftest import Reference
from tests.support.writers import CONTEXT, LABELS, LENGTH, TEXTS

LONG = "The cat " * 300


@pytest.fixture(scope="module")
def model(writer_bundle: Path) -> Any:
    return mpt_edge.load(writer_bundle, threads=1)


@pytest.fixture
def changed(writer_bundle: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that loads the bundle with a changed copy of its choosing task, and selects that."""

    def add(**changes: Any) -> Any:
        replace(Bundle.open(writer_bundle).task("mood"), **changes).save(tmp_path / "task.safetensors")
        return mpt_edge.load(writer_bundle, threads=1).add_task(tmp_path / "task.safetensors")

    return add


@torch.no_grad()
def test_choice_is_the_likeliest_label_text(generative: Any, reference: Reference) -> None:
    means = []
    for text in LABELS.values():
        more = reference.tokenizer(text, add_special_tokens=False).input_ids
        logits = reference.model(inputs_embeds=reference.embedded(TEXTS[1], "mood", more)).logits[0].numpy()
        scores = log_softmax(logits, axis=-1)[-len(more) - 1 : -1]
        means.append(scores[np.arange(len(more)), more].mean())
    answer = generative.task("mood")(TEXTS[1])
    assert list(answer.scores.values()) == pytest.approx(softmax(means), abs=1e-4)
    assert answer.label == tuple(LABELS)[int(np.argmax(means))]


def test_every_label_has_a_probability(model: Any) -> None:
    for text in TEXTS:
        answer = model.task("mood")(text)
        assert tuple(answer.scores) == tuple(LABELS)
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert answer.score == answer.scores[answer.label] == max(answer.scores.values())
    assert model.task("mood").labels == tuple(LABELS)


def test_the_likeliest_continuation_wins(changed: Callable[..., Any]) -> None:
    """Whichever label the continuation belongs to."""
    ends = (" sat on the mat", " had a red ball")
    for labels in (ends, ends[::-1]):
        task = changed(label_texts=tuple((text,) for text in labels))
        assert task("The cat").label == ("good", "bad")[labels.index(ends[0])]
        assert task("Tom").label == ("good", "bad")[labels.index(ends[1])]


def test_room_for_the_longest_label_alone(writer_bundle: Path, changed: Callable[..., Any]) -> None:
    """The options' limit of new tokens does not count, and labels longer than the context are refused."""
    tokenizer = Tokenizer.from_file(str(writer_bundle / "tokenizer.json"))
    longest = max(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in LABELS.values())
    task = changed(max_length=500)
    assert task.max_length == CONTEXT - LENGTH - longest
    answer = task(LONG)
    assert answer.truncated
    assert answer == task(LONG, max_new_tokens=CONTEXT)
    with pytest.raises(InputError, match=r"tokens of the longest label .* train the task with shorter label texts"):
        changed(label_texts=(("word " * 200,), ("other",)))("The cat")


def test_label_text_without_tokens(changed: Callable[..., Any]) -> None:
    with pytest.raises(
        MismatchError, match="the text of the label 'good' has no tokens for this model; train the task"
    ):
        changed(label_texts=(("",), ("other",)))
