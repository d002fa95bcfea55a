"""Encoders: batches of texts and tasks, layouts, and texts that are refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import InputError
from mpt_edge.formats.placement import Layout, Placement
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch, Encoded, Text, TextEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import LONG, TEXTS, assert_same, rows, vector
from tests.support.bundles import PROMPT, edit
from tests.support.encoders import make_task


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture
def fresh(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


def test_mixed_batch_equals_single_runs(mixed: EncoderModel) -> None:
    texts = rows(60)
    names = [("sentiment", "longer", "topic")[i % 3] for i in range(60)]
    alone = [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)]
    assert len({len(text.split()) for text in texts}) > 5
    for size in (1, 7, 64):
        assert_same(mixed.run(texts, names, batch_size=size), alone)


def test_tasks_share_a_run_if_their_prompts_are_of_one_length(
    mixed: EncoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def spy(self, batch, past=None):
        runs.append((len(batch.input_ids), next(iter(past.values())).shape[2]))
        return request(self, batch, past)

    names = ["sentiment", "longer", "topic", "topic"]
    alone = [mixed.task(name)("a good film") for name in names]
    request = OnnxEncoder.request
    monkeypatch.setattr(OnnxEncoder, "request", spy)
    assert_same(mixed.run(["a good film"] * 4, names), alone)
    lengths = {name: len(mixed.task(name)._selected.prompt) for name in names}
    assert lengths["sentiment"] == lengths["topic"] != lengths["longer"]
    assert sorted(runs) == sorted([(3, lengths["topic"]), (1, lengths["longer"])])
    runs.clear()
    monkeypatch.setattr("mpt_edge.inference.encoder_model.MAX_SHARED_LENGTH", 1)  # longer ones are by task
    assert_same(mixed.run(["a good film"] * 4, names), alone)
    assert sorted(rows for rows, _ in runs) == [1, 1, 2]


def test_mixed_batch_with_pairs(mixed: EncoderModel) -> None:
    texts: list[Text] = ["a witty film", ("good film", "bad film"), "dull", ("vote", "law party atom")]
    names = ["sentiment", "same", "longer", "same"]
    alone = [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)]
    assert_same(mixed.run(texts, names), alone)


def test_order_is_kept(mixed: EncoderModel) -> None:
    texts = rows(300, seed=1)
    names = list(np.random.default_rng(2).choice(["sentiment", "topic", "longer"], 300, p=[0.7, 0.2, 0.1]))
    answers = mixed.run(texts, names, batch_size=16)
    assert [answer.task for answer in answers] == names
    vectors = np.array([next(iter(answer.similarities.values())) for answer in answers])
    assert len(np.unique(vectors.round(5))) > 280  # texts have different answers, so an exchange would show
    assert_same(answers, [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)])


def test_many_rows_are_split_by_tokens(model: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = rows(40)
    expected = model.task("topic")(texts)
    shapes = []
    request = OnnxEncoder.request

    def spy(self: OnnxEncoder, batch: Batch, *rest: object) -> np.ndarray:
        shapes.append(batch.input_ids.shape)
        return request(self, batch, *rest)

    monkeypatch.setattr(OnnxEncoder, "request", spy)
    monkeypatch.setattr("mpt_edge.inference.encoder_model.ENCODER_TOKENS", 50)
    assert_same(model.run(texts, "topic"), expected)
    assert len(shapes) > 5
    assert all(count * width <= 50 for count, width in shapes)
    assert sum(count for count, _ in shapes) == 40
    shapes.clear()
    model.run(texts, "topic", batch_size=3)
    assert [count for count, _ in shapes] == [1] + [3] * 13


def test_pair(model: EncoderModel) -> None:
    task = model.task("same")
    assert task.file.inputs is Inputs.PAIR
    one, swapped = task(("good film", "bad law")), task(("bad law", "good film"))
    assert np.abs(vector(one) - vector(swapped)).max() > 1e-4  # segments and order are read
    assert_same(task([("good film", "bad law"), ("bad law", "good film")]), [one, swapped])
    with pytest.raises(InputError, match="text 1: this task reads pairs of texts"):
        task("good film")
    with pytest.raises(InputError, match="text 2: this task reads single texts"):
        model.task("topic")(["fine", ("good", "bad")])


def test_prediction(model: EncoderModel) -> None:
    for name in ("sentiment", "topic"):
        task = model.task(name)
        for answer in task(rows(20)):
            assert answer.task == name
            assert tuple(answer.scores) == tuple(answer.similarities) == task.labels
            assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-9)
            assert answer.score == answer.scores[answer.label] == max(answer.scores.values())
            assert answer.similarities[answer.label] == max(answer.similarities.values())
            assert all(0 <= prob <= 1 for prob in answer.scores.values())
            assert all(-1.00001 <= value <= 1.00001 for value in answer.similarities.values())
    assert len({answer.label for answer in model.task("topic")(rows(60))}) > 1


def test_text_equal_to_a_label_text_is_most_similar_to_it(model: EncoderModel) -> None:
    answer = model.task("topic")("vote party")
    assert answer.label == "law"
    assert answer.similarities["law"] == pytest.approx(1, abs=1e-5)


def test_truncated_flag(model: EncoderModel) -> None:
    task = model.task("topic")
    assert task.max_length == 16
    answers = task(["film " * 14, "film " * 15, LONG, "film"])
    assert [answer.truncated for answer in answers] == [False, True, True, False]
    assert vector(answers[1]) == pytest.approx(vector(answers[0]), abs=1e-5)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text(model: EncoderModel, text: str) -> None:
    with pytest.raises(InputError, match="text 1: the text is empty; pass at least one word"):
        model.task("topic")(text)
    with pytest.raises(InputError, match="text 3: the text is empty"):
        model.run(["a", "b", text], "topic")


def test_a_text_without_tokens_is_not_answered(fresh: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Special tokens alone are no text. This tokenizer has tokens for any text, so one is emptied here."""
    encode = TextEncoder.encode

    def emptied(self: TextEncoder, texts: list[str], limit: int, **options: Any) -> list[Encoded]:
        return encode(self, ["" if text == "nothing" else text for text in texts], limit, **options)

    monkeypatch.setattr(TextEncoder, "encode", emptied)
    with pytest.raises(InputError, match="text 2: the text has no tokens for this model; pass words"):
        fresh.run(["a film", "nothing"], "topic")
    topic = fresh.task("topic")
    for call in (topic.scores, topic.embed, fresh.embed):
        with pytest.raises(InputError, match="text 1: the text has no tokens for this model"):
            call(["nothing"])
    good, bad = fresh.prepare(["a film", "nothing"], "topic")
    assert isinstance(good, Request)
    assert str(bad) == "the text has no tokens for this model; pass words that its tokenizer knows."


def test_leading_spaces_are_no_text(model: EncoderModel) -> None:
    """More of them than the characters that are read; the word after them counts."""
    answer = model.task("topic")(" " * 5000 + "atom")
    assert answer.truncated
    assert answer.scores == model.task("topic")("atom").scores


def test_options_are_for_generative_models(model: EncoderModel) -> None:
    with pytest.raises(InputError, match="generate no text; leave seed out"):
        model.task("topic")(TEXTS[0], seed=1)
    assert model.task("topic")(TEXTS[0], seed=None) == model.task("topic")(TEXTS[0])  # None leaves it to the task


def test_odd_texts_are_read(model: EncoderModel) -> None:
    for text in ["\x00", "\U0001d56c ü 漢字 🎬", "x" * 100_000, "\u200b", "{text} %s"]:
        assert sum(model.task("topic")(text).scores.values()) == pytest.approx(1)


def test_template(fresh: EncoderModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path) -> None:
    for name, template in (("templated", "the {text} was {text}"), ("untouched", None)):
        labels = {"no": "bad", "yes": "good"}
        vectors = {"u": np.ones(6, np.float16), "v": np.ones(32, np.float16)}
        make_task(tiny, shared_prompt, name, labels, template=template, **vectors).save(tmp_path / name)
        fresh.add_task(tmp_path / name)
    filled, plain = fresh.run(["film", "the film was film"], ["templated", "untouched"])
    np.testing.assert_allclose(vector(filled), vector(plain), atol=1e-5)
    assert np.abs(vector(filled) - vector(fresh.task("untouched")("film"))).max() > 1e-3


def test_label_text_longer_than_the_backbone_reads(
    fresh: EncoderModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    labels = {"no": "bad film " * 60, "yes": "good"}
    make_task(tiny, shared_prompt, "wordy", labels, max_length=512).save(tmp_path / "t")
    answer = fresh.add_task(tmp_path / "t")("film " * 100)
    assert answer.truncated
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_threads_give_the_same_answers(tiny_bundle: Path, long_prompt_task: Path) -> None:
    jobs = [(rows(8, seed), [("sentiment", "topic", "longer")[(i + seed) % 3] for i in range(8)]) for seed in range(24)]

    def load() -> EncoderModel:
        model = mpt_edge.load(tiny_bundle, threads=1)
        model.add_task(long_prompt_task)
        return model

    model = load()
    expected = [model.run(*job) for job in jobs]
    model = load()  # so that the threads also race to select the tasks
    with ThreadPoolExecutor(8) as pool_of_threads:
        answers = list(pool_of_threads.map(lambda job: model.run(*job), jobs))
    for one, other in zip(answers, expected, strict=True):
        assert_same(one, other, 1e-6)


@pytest.fixture
def joint_bundle(
    tiny_bundle: Path, tmp_path: Path, shared_prompt: SharedPrompt
) -> Iterator[Callable[[], EncoderModel]]:
    """Return a function that loads a bundle whose shared prompt has the joint layout."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    file = folder / PROMPT
    replace(shared_prompt, placement=Placement(Layout.JOINT)).save(file)
    entry = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
    edit(folder, lambda manifest: manifest["files"].update({PROMPT: entry}))
    edit(folder, lambda manifest: manifest["prompts"]["mpt"].update(layout=Layout.JOINT))
    return lambda: mpt_edge.load(folder, threads=1)


def test_joint_layout_in_a_mixed_batch(joint_bundle: Callable[[], EncoderModel], model: EncoderModel) -> None:
    joint = joint_bundle()
    texts, names = rows(12), ["sentiment", "topic"] * 6
    answers = joint.run(texts, names)
    assert_same(answers, [joint.task(name)(text) for text, name in zip(texts, names, strict=True)])
    prefix = model.run(texts, names)
    assert max(np.abs(vector(a) - vector(b)).max() for a, b in zip(answers, prefix, strict=True)) > 1e-3


def test_runs_side_by_side_give_the_same_answers(tiny_bundle: Path, model: EncoderModel) -> None:
    texts = rows(100)
    side_by_side = mpt_edge.load(tiny_bundle, threads=1, runs=3)
    assert_same(side_by_side.run(texts, "topic"), model.run(texts, "topic"))
    with pytest.raises(InputError, match="0 runs side by side are not possible here"):
        mpt_edge.load(tiny_bundle, runs=0)
