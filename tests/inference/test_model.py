"""Models of any family: tasks that are selected and added, requests, and embeddings without a prompt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertModel

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.inference.answers import Answer, Embedding, Generation, Prediction
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.answers import LONG, TEXTS, assert_same
from tests.support.encoders import make_task
from tests.support.plain_bert import mean_states


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture
def fresh(tiny_bundle: Path) -> EncoderModel:
    return mpt_edge.load(tiny_bundle, threads=1)


def test_impossible_runs(model: EncoderModel) -> None:
    with pytest.raises(InputError, match="the texts are one text; pass a list"):
        model.run(TEXTS[0], "topic")
    with pytest.raises(InputError, match="2 texts but 1 tasks"):
        model.run(["a", "b"], ["topic"])
    with pytest.raises(InputError, match="batch size of 0"):
        model.run(["a"], "topic", batch_size=0)
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        model.run(["a"], ["topik"])


def test_selecting_again_computes_nothing(fresh: EncoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = OnnxEncoder.encode_prompt
    monkeypatch.setattr(OnnxEncoder, "encode_prompt", lambda *a: calls.append(1) or encode(*a))
    for _ in range(3):
        fresh.task("topic")("a film")
        fresh.run(["a film"], "topic")
    assert len(calls) == 1


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_add_task_leaves_the_disk_alone(tiny_bundle: Path, long_prompt_task: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = digests(folder)
    model = mpt_edge.load(folder, threads=1)
    task = model.add_task(long_prompt_task)
    assert model.tasks == ["longer", "same", "sentiment", "topic"]
    assert task.prompt.shape == (11, 32)
    assert_same([task("good film")], model.run(["good film"], "longer"))
    assert digests(folder) == before
    with pytest.raises(UnknownTaskError):
        mpt_edge.load(folder, threads=1).task("longer")


def test_add_task_replaces(
    fresh: EncoderModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    old = fresh.task("topic")
    before = old("a film")
    make_task(tiny, shared_prompt, "topic", {"x": "ball", "y": "law"}, version=2).save(tmp_path / "t")
    fresh.add_task(tmp_path / "t")
    assert fresh.task("topic").labels == ("x", "y")
    assert set(fresh.run(["a film"], "topic")[0].scores) == {"x", "y"}
    assert old("a film") == before  # an older Task keeps its file


@pytest.mark.parametrize(
    "changes",
    [{"backbone": "0" * 64}, {"tokenizer": "0" * 64}, {"prompt_sha256": "0" * 64}, {"u": np.ones(7, np.float16)}],
    ids=lambda changes: next(iter(changes)),
)
def test_add_task_made_for_another(
    fresh: EncoderModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path, changes: dict[str, object]
) -> None:
    replace(make_task(tiny, shared_prompt, "fresh", {"no": "bad", "yes": "good"}), **changes).save(tmp_path / "t")
    with pytest.raises(MismatchError):
        fresh.add_task(tmp_path / "t")
    assert fresh.tasks == ["same", "sentiment", "topic"]


def test_add_task_that_is_no_file(fresh: EncoderModel, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="cannot read"):
        fresh.add_task(tmp_path / "none")


def test_prompt_that_overflows(
    fresh: EncoderModel, tiny: EncoderBackbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    huge = {"u": np.full(6, 3e38, np.float32), "v": np.full(32, 3e38, np.float32)}
    make_task(tiny, shared_prompt, "huge", {"no": "bad", "yes": "good"}, **huge).save(tmp_path / "t")
    with pytest.raises(MismatchError, match="the prompt of 'huge' overflows"), np.errstate(over="ignore"):
        fresh.add_task(tmp_path / "t")


@pytest.mark.parametrize("answers", [None, Prediction, Answer])
def test_task_with_the_class_of_its_answers(model: Model, answers: type[Answer] | None) -> None:
    task = model.task("topic") if answers is None else model.task("topic", answers=answers)
    assert isinstance(task("a film"), Prediction)


@pytest.mark.parametrize("answers", [Generation, Embedding])
def test_task_with_another_class_of_answers(model: Model, answers: type[Answer]) -> None:
    expected = f"'topic' answers with Prediction, not {answers.__name__}; pass that class"
    with pytest.raises(MismatchError, match=expected):
        model.task("topic", answers=answers)


def test_prepare_and_answer_are_a_run(model: Model) -> None:
    """Each bad text has an error in its place, and the others are answered."""
    texts = ["a film", "", ("good", "bad"), "dull", None, "vote"]
    names = ["topic", "topic", "same", "same", "topic", "topik"]
    results = model.prepare(texts, names)
    errors = {i: str(result) for i, result in enumerate(results) if not isinstance(result, Request)}
    assert list(errors) == [1, 3, 4, 5]
    assert errors[1] == "the text is empty; pass at least one word."
    assert errors[3].startswith("this task reads pairs")
    assert errors[4].startswith("expected a text or a pair of texts, got NoneType")
    assert errors[5].startswith("no task 'topik' in ")
    assert isinstance(results[5], UnknownTaskError)
    requests = [result for result in results if isinstance(result, Request)]
    expected = model.run(["a film", ("good", "bad")], ["topic", "same"])
    for size in (1, 32):
        assert_same(model.answer(requests, batch_size=size), expected)
    with pytest.raises(InputError, match="batch size of 0"):
        model.answer(requests, batch_size=0)


def test_prepare_reports_a_damaged_task_where_it_is_asked_for(folder: Path) -> None:
    (folder / "tasks" / "topic.safetensors").write_bytes(b"?")
    model = mpt_edge.load(folder, threads=1)
    good, bad = model.prepare(["a film"] * 2, ["sentiment", "topic"])
    assert isinstance(good, Request)
    assert isinstance(bad, CorruptFileError)
    with pytest.raises(CorruptFileError):
        model.run(["a film"] * 2, ["sentiment", "topic"])


def test_prepare_that_cannot_be_done(model: Model) -> None:
    with pytest.raises(InputError, match="the texts are one text; pass a list"):
        model.prepare("a film", "topic")
    with pytest.raises(InputError, match="1 texts but 2 tasks"):
        model.prepare(["a film"], ["topic", "same"])
    assert model.prepare([], "topic") == []
    assert model.answer([]) == []


@pytest.mark.parametrize("normalize", [True, False])
def test_bare_embeddings_are_those_of_transformers(
    model: Model, bert: BertModel, tiny: EncoderBackbone, normalize: bool
) -> None:
    """Mean pooling, and no prompt."""
    texts = [*TEXTS, ("good film", "bad")]
    no_prompt = np.zeros((0, 32), np.float32)
    expected = np.stack([mean_states(bert, tiny, no_prompt, text, 48) for text in texts])
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True) if normalize else expected
    result = model.embed(texts, normalize=normalize)
    assert (result.shape, result.dtype) == ((6, 32), np.float32)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    single = model.embed(TEXTS[0], normalize=normalize)
    assert single.shape == (32,)
    np.testing.assert_allclose(single, expected[0], atol=1e-4)
    assert model.embed([]).shape == (0, 32)


def test_bare_embeddings_are_normalized_unless_told_otherwise(model: Model) -> None:
    np.testing.assert_allclose(np.linalg.norm(model.embed([*TEXTS, LONG]), axis=1), 1, atol=1e-6)
    assert np.linalg.norm(model.embed(TEXTS[0], normalize=False)) > 2


@pytest.mark.parametrize(
    ("texts", "says"),
    [(["a", " "], "text 2: the text is empty"), ("", "text 1: the text is empty"), ([3], "text 1: expected a text")],
)
def test_texts_without_an_embedding(model: Model, texts: object, says: str) -> None:
    for embed in (model.embed, model.task("topic").embed):
        with pytest.raises(InputError, match=says):
            embed(texts)  # type: ignore[arg-type]


def test_generative_models_have_no_embeddings(writer_bundle: Path) -> None:
    model = mpt_edge.load(writer_bundle, threads=1)
    with pytest.raises(InputError, match="is a generative model, which has no embeddings; use an encoder"):
        model.embed("a film")


def test_embeddings_and_answers_in_one_batch(model: Model) -> None:
    requests = [
        *model.prepare_embeddings(TEXTS),
        *model.prepare_embeddings(TEXTS, normalize=False),
        *model.prepare_embeddings(TEXTS, "topic"),
        *model.prepare(TEXTS, "topic"),
    ]
    count, answers = len(TEXTS), model.answer(requests)
    vectors = np.stack([answer.vector for answer in answers if isinstance(answer, Embedding)])
    np.testing.assert_allclose(vectors[:count], model.embed(TEXTS), atol=1e-6)
    np.testing.assert_allclose(vectors[count : 2 * count], model.embed(TEXTS, normalize=False), atol=1e-5)
    np.testing.assert_allclose(vectors[2 * count :], model.task("topic").embed(TEXTS), atol=1e-6)
    assert_same(answers[3 * count :], model.run(TEXTS, "topic"), 1e-6)


def test_texts_whose_embeddings_cannot_be_prepared(model: Model, writer_bundle: Path) -> None:
    for task in (None, "topic"):
        good, bad, other = model.prepare_embeddings(["a film", " ", 3], task)
        assert isinstance(good, Request)
        assert "the text is empty" in str(bad)
        assert "expected a text" in str(other)
    assert isinstance(model.prepare_embeddings([("a", "b")])[0], Request)
    with pytest.raises(UnknownTaskError):
        model.prepare_embeddings(["a"], "none")
    with pytest.raises(InputError, match="use an encoder"):
        mpt_edge.load(writer_bundle, threads=1).prepare_embeddings(["a"])


def test_a_dropped_task_is_read_again_and_older_objects_keep_theirs(
    fresh: EncoderModel, long_prompt_task: Path
) -> None:
    topic, added = fresh.task("topic"), fresh.add_task(long_prompt_task)
    assert fresh.is_selected("topic")
    for name in ("topic", "longer", "none"):
        fresh.drop_task(name)
        assert not fresh.is_selected(name)
    assert (fresh.cached_tasks, fresh.cache_bytes) == ([], 0)
    assert_same(topic(TEXTS), fresh.task("topic")(TEXTS), 1e-6)
    assert len(added(TEXTS)) == len(TEXTS)
    with pytest.raises(UnknownTaskError):
        fresh.task("longer")  # it is in no file of the bundle


def test_tasks_and_providers(model: Model) -> None:
    assert model.tasks == ["same", "sentiment", "topic"]
    assert model.providers == ["CPUExecutionProvider"]


def test_repr(model: Model) -> None:
    assert repr(model) == f"EncoderModel({str(model.bundle.folder)!r}, tiny-bert, 3 tasks)"
    assert len(repr(model)) < 400


def test_install(folder: Path, task_file: Callable[..., Path]) -> None:
    model = mpt_edge.load(folder, threads=1)
    (old,) = model.install(task_file(version=1))
    before = old("good film")
    (new,) = model.install(task_file(version=2, scale=3.0))
    assert (old("good film"), new.file.version) == (before, 2)
    assert model.task("fresh")("good film") == new("good film") != before
    assert mpt_edge.load(folder, threads=1).task("fresh")("good film") == new("good film")
    with pytest.raises(MismatchError, match="was installed in version 2, and this is version 1"):
        model.install(task_file(version=1))
    model.install(task_file(version=1), allow_downgrade=True)
    assert mpt_edge.load(folder, threads=1).task("fresh").file.version == 1


def test_install_is_refused_as_a_whole(folder: Path, task_file: Callable[..., Path]) -> None:
    model, manifest = mpt_edge.load(folder, threads=1), (folder / "bundle.json").read_bytes()
    wrong = task_file("wrong", reference_example={"text": "good film", "label": "yes", "score": 2.0})
    for bad in (wrong, task_file("bare", reference_example={"text": ""}), task_file("other", tokenizer="0" * 64)):
        with pytest.raises((CorruptFileError, MismatchError)):
            model.install(task_file("one"), bad)
    assert [task.name for task in model.install(task_file("one"), task_file("two"), dry_run=True)] == ["one", "two"]
    assert (folder / "bundle.json").read_bytes() == manifest
    assert "one" not in model.tasks


def test_install_answers_in_the_precision_in_use(
    folder: Path, task_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("mpt_edge.inference.model.self_test", lambda task, precision: asked.append(precision))
    mpt_edge.load(folder, threads=1).install(task_file())
    assert asked == ["float32"]


def test_pin_moves_with_ones_own_install_alone(folder: Path, task_file: Callable[..., Path]) -> None:
    digest = mpt_edge.Bundle.open(folder).digest
    model, other = mpt_edge.load(folder, threads=1, digest=digest), mpt_edge.load(folder, threads=1)
    model.install(task_file("one"))
    assert model.task("one").name == "one"
    with pytest.raises(MismatchError, match="and another is pinned; restore the bundle, or pin this digest"):
        mpt_edge.load(folder, digest=digest)
    mpt_edge.load(folder, digest=model.bundle.digest)
    other.install(task_file("two"))
    for call in (lambda: model.task("topic"), lambda: model.install(task_file("three"))):
        with pytest.raises(MismatchError, match="another is pinned"):
            call()


def test_keys_and_values_that_overflow(
    folder: Path, task_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mpt_edge.load(folder, threads=1)
    real = model.backbone.encode_prompt
    monkeypatch.setattr(
        model.backbone, "encode_prompt", lambda prompt: {k: v + np.float32(np.inf) for k, v in real(prompt).items()}
    )
    with pytest.raises(MismatchError, match="the keys and values of 'fresh' overflow"):
        model.install(task_file())
