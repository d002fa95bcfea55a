"""Instructions that are read with the prompt: the same answers as without."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpt_edge
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.placement import Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.inference import generative_model
from mpt_edge.inference.generation.opening import Opening, common_beginning
from mpt_edge.inference.selection import task_bytes
from mpt_edge.inference.text import Encoded
from mpt_edge.training.backbones.generative_backbone import CausalBackbone
from mpt_edge.training.backbones.opening import open_backbone
from mpt_edge_export import ExportPlan, export_bundle
from tests.support import adapters
from tests.support.writers import LABELS, TEXTS, text_task

CHAT = ChatFrame("Question: Lily and the dog sang in the park.\n", "\nAnswer:")


@pytest.fixture(scope="module")
def model(writer_bundle: Path) -> Any:
    return mpt_edge.load(writer_bundle, threads=1)


@pytest.fixture(scope="module", params=[PromptPosition.FIRST_LAYER, PromptPosition.EMBEDDINGS], ids=str)
def gpt2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a model with learned positions, which count from 0 or after the prompt."""
    folder = tmp_path_factory.mktemp("gpt2")
    backbone = open_backbone(str(adapters.save_base("gpt2", folder / "base")))
    assert isinstance(backbone, CausalBackbone)
    values = np.random.default_rng(0).normal(0, 0.3, (5, 32)).astype(np.float16)
    shared = SharedPrompt("mpt", values, Placement(position=request.param), backbone.fingerprint)
    shared.save(folder / "prompts/mpt.safetensors")
    changes: dict[str, Any] = {"template": "a film of the law and the ball , {text} ,", "max_length": 40}
    text_task(backbone, shared, "story", **changes, generation={"max_new_tokens": 6}).save(
        folder / "tasks/story.safetensors"
    )
    export_bundle(ExportPlan(backbone, [folder], folder / "bundle"))
    return folder / "bundle"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"template": "Question: who is this dog? {text} Answer:"}, "Question: who is this dog?"),
        ({"chat": CHAT}, "Question: Lily and the dog sang in the park."),
        ({"template": "Answer: {text}", "chat": CHAT}, "Question: Lily and the dog sang in the park.\nAnswer:"),
        ({"template": "{text}\nAnswer:"}, ""),
        ({"template": "The {text}"}, ""),  # too short
        ({}, ""),
        ({"template": "dog " * 80 + "{text}"}, ""),  # fills the room of the task
    ],
)
def test_tokens_that_all_inputs_begin_with(model: Any, changes: dict[str, Any], text: str) -> None:
    file = dataclasses.replace(model.bundle.task("story"), **changes)
    ids = common_beginning(model.texts, file)
    assert model.texts.tokenizer.decode(list(ids)).rstrip("\n ") == text
    for each in TEXTS:
        if ids:
            row = model.texts.fit(file.template, each, 64, file.truncation_side, file.chat)
            assert Opening(ids, {}).begins(row)


def test_a_row_that_begins_otherwise_or_has_nothing_more() -> None:
    opening = Opening((5, 6), {})
    rows = [Encoded(ids, [0] * len(ids), truncated=False) for ids in ([5, 6, 7], [5, 6], [5, 7, 7], [5])]
    assert [opening.begins(row) for row in rows] == [True, False, False, False]


def without(patch: pytest.MonkeyPatch) -> None:
    """Select tasks without reading any opening."""
    patch.setattr(generative_model, "common_beginning", lambda *_: ())


def test_learned_positions_go_on_after_an_opening(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["witty", "a witty film", "ball"]
    task = mpt_edge.load(gpt2, threads=1).task("story")
    values = [task.log_likelihood(text, "the ball of the law") for text in texts]
    without(monkeypatch)
    other = mpt_edge.load(gpt2, threads=1).task("story")
    expected = [other.log_likelihood(text, "the ball of the law") for text in texts]
    assert values == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 3


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 0.8, "seed": 1}], ids=str)
def test_generated_texts_are_the_same(
    writer_bundle: Path, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "task.safetensors"
    dataclasses.replace(model.bundle.task("story"), chat=CHAT, name="chat").save(path)
    task = mpt_edge.load(writer_bundle, threads=1).add_task(path)
    answers = task(TEXTS, **options)
    streamed = "".join(task.stream(TEXTS[0])) if not options else answers[0].text
    without(monkeypatch)
    expected = mpt_edge.load(writer_bundle, threads=1).add_task(path)(TEXTS, **options)
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert streamed == expected[0].text
    assert len({answer.text for answer in expected}) > 1


def test_labels_are_as_likely(writer_bundle: Path, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "task.safetensors"
    dataclasses.replace(model.bundle.task("mood"), chat=CHAT, name="chat").save(path)
    (answer,) = mpt_edge.load(writer_bundle, threads=1).add_task(path)([TEXTS[1]])
    without(monkeypatch)
    (expected,) = mpt_edge.load(writer_bundle, threads=1).add_task(path)([TEXTS[1]])
    assert answer.scores.keys() == LABELS.keys()
    assert answer.scores == pytest.approx(expected.scores, abs=1e-5)
    assert not math.isclose(*expected.scores.values(), abs_tol=1e-3)


def test_rows_with_and_without_it_in_one_batch(
    writer_bundle: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row whose tokens begin otherwise is read whole."""
    texts = ["The cat sat on the mat", *TEXTS, "The cat sat on the"]
    expected = [answer.text for answer in model.task("story")(texts)]
    ids = tuple(model.texts.continuations(["The cat sat on the"])[0])
    monkeypatch.setattr(generative_model, "common_beginning", lambda *_: ids)
    changed = mpt_edge.load(writer_bundle, threads=1)
    assert [answer.text for answer in changed.task("story")(texts)] == expected
    selected = changed._select("story")
    assert selected.opening is not None
    assert selected.opening.ids == ids
    size = sum(array.nbytes for array in selected.opening.cache.values())
    assert task_bytes(selected) == task_bytes(dataclasses.replace(selected, opening=None)) + size
    assert {array.shape[2] for array in selected.opening.cache.values()} == {len(selected.file.u) + len(ids)}
