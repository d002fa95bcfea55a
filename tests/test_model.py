from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

import mpt_edge
from mpt_edge.backbone import OnnxBackbone, stack
from mpt_edge.bundle import MODEL, Bundle
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, UnknownTaskError
from mpt_edge.model import Model, Prediction
from mpt_edge.prompts import SharedPrompt, compose
from mpt_edge.readout import label_embeddings, pool, softmax, unit
from mpt_edge.taskfile import TaskFile
from mpt_edge.text import Batch, Encoded, Text, TextEncoder
from mpt_edge.training.backbones import Backbone
from tests.support.encoders import WORDS, make_task

TEXTS = ["a witty film", "dull", "the ball game was great sport", "vote law party", "atom cell star text a the film"]
LONG = "good film " * 40
Parts = tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture
def fresh(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def long_prompt_task(tiny: Backbone, shared_prompt: SharedPrompt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that carries a prompt of eleven rows; the shared one has six."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("own") / "longer.safetensors"
    make_task(
        tiny, shared_prompt, "longer", {"no": "bad dull", "maybe": "text", "yes": "good great"},
        own_prompt=rng.standard_normal((11, 32)).astype(np.float32), u=rng.normal(1, 0.3, 11).astype(np.float16),
    ).save(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def mixed(tiny_bundle: Path, long_prompt_task: Path) -> Model:
    model = mpt_edge.load(tiny_bundle, threads=1)
    model.add_task(long_prompt_task)
    return model


@pytest.fixture(scope="module")
def backbone(tiny_bundle: Path) -> OnnxBackbone:
    return OnnxBackbone(tiny_bundle / MODEL, Bundle.open(tiny_bundle).manifest, threads=1)


def rows(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of one to twelve words."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(WORDS.split(), rng.integers(1, 13)))] = None
    return list(found)


def vector(answer: Prediction) -> np.ndarray:
    return np.array([*answer.similarities.values(), *answer.scores.values()])


def assert_same(found: list[Prediction], expected: list[Prediction], tolerance: float = 1e-5) -> None:
    assert [(p.task, p.label, p.truncated) for p in found] == [(p.task, p.label, p.truncated) for p in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one.scores) == list(other.scores)
        np.testing.assert_allclose(vector(one), vector(other), atol=tolerance, rtol=0)


# The independent reference: transformers' own BertModel and attention, one explicit mask, no cache.


@pytest.fixture(scope="module")
def bert(tiny_folder: Path) -> BertModel:
    return BertModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()


def reference(bert: BertModel, prompt: np.ndarray, ids: list[int], types: list[int], layout: str = "prefix") -> Parts:
    """Run prompt rows and one text's tokens through plain BERT layers; return both hidden states."""
    rows, total = len(prompt), len(prompt) + len(ids)
    with torch.no_grad():
        embedded = bert.embeddings(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        hidden = torch.cat([torch.from_numpy(prompt)[None], embedded], dim=1)
        mask = torch.zeros(1, 1, total, total)
        if layout == "prefix":
            mask[:, :, :rows, rows:] = torch.finfo(torch.float32).min  # prompt rows see no text
        for layer in bert.encoder.layer:
            output = layer(hidden, attention_mask=mask)
            hidden = output[0] if isinstance(output, tuple) else output
    return hidden[0, :rows].numpy(), hidden[0, rows:].numpy()


def reference_answer(bert: BertModel, tiny: Backbone, task: TaskFile, shared: SharedPrompt, text: Text) -> np.ndarray:
    """Return similarities and scores of one text, computed in torch and by hand."""
    values = shared.values if task.own_prompt is None else task.own_prompt
    prompt = (values.astype(np.float64) * np.outer(task.u.astype(np.float64), task.v.astype(np.float64))).astype(
        np.float32
    )

    def embed(text: Text) -> np.ndarray:
        (row,) = tiny.texts.encode([text], task.max_length)
        mean = reference(bert, prompt, row.ids, row.types)[1].mean(0)
        return mean / np.linalg.norm(mean)

    means = [np.mean([embed(text) for text in group], axis=0) for group in task.label_texts]
    similarities = np.array([mean @ embed(text) / np.linalg.norm(mean) for mean in means])
    powers = np.exp(similarities * task.scale)
    return np.concatenate([similarities, powers / powers.sum()])


@pytest.mark.parametrize("name", ["sentiment", "topic", "same", "longer"])
def test_answers_are_those_of_plain_pytorch(
    mixed: Model, bert: BertModel, tiny: Backbone, shared_prompt: SharedPrompt, name: str
) -> None:
    task = mixed.task(name)
    texts = [(text, "the film") for text in TEXTS] if task.kind == "pair" else TEXTS
    found = [vector(answer) for answer in task(texts)]
    expected = [reference_answer(bert, tiny, task.file, shared_prompt, text) for text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.ptp(found, axis=0).max() > 1e-2  # the texts differ in their answers


@pytest.mark.parametrize("name", ["sentiment", "longer"])
def test_cached_prompt_gives_plain_pytorchs_hidden_states(
    mixed: Model, backbone: OnnxBackbone, bert: BertModel, tiny: Backbone, name: str
) -> None:
    prompt = mixed.task(name).prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.request(tiny.texts.pad(encoded), backbone.encode_prompt(prompt))
    bare = backbone.request(tiny.texts.pad(encoded))
    for i, row in enumerate(encoded):
        length = len(row.ids)
        expected = reference(bert, prompt, row.ids, row.types)[1]
        np.testing.assert_allclose(hidden[i, :length], expected, atol=1e-4)
        without = reference(bert, prompt[:0], row.ids, row.types)[1]
        np.testing.assert_allclose(bare[i, :length], without, atol=1e-4)
        assert np.abs(expected - without).max() > 0.1  # the prompt matters


def test_joint_request_is_full_attention_in_pytorch(
    model: Model, backbone: OnnxBackbone, bert: BertModel, tiny: Backbone
) -> None:
    prompt = model.task("topic").prompt
    encoded = tiny.texts.encode(TEXTS, 16)
    hidden = backbone.joint_request(tiny.texts.pad(encoded), prompt)
    for i, row in enumerate(encoded):
        expected = reference(bert, prompt, row.ids, row.types, "joint")[1]
        np.testing.assert_allclose(hidden[i, : len(row.ids)], expected, atol=1e-4)
        assert np.abs(expected - reference(bert, prompt, row.ids, row.types)[1]).max() > 1e-2


def test_cache_is_the_keys_and_values_of_the_prompt_alone(model: Model, backbone: OnnxBackbone) -> None:
    cache = backbone.encode_prompt(model.task("topic").prompt)
    assert sorted(cache) == [f"past_key_values.{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert {value.shape for value in cache.values()} == {(1, 4, 6, 8)}


@pytest.mark.parametrize("cached", [True, False])
def test_padding_on_either_side_changes_nothing(
    model: Model, backbone: OnnxBackbone, tiny: Backbone, cached: bool
) -> None:
    (row,) = tiny.texts.encode([("a witty film", "dull")], 16)
    length, width = len(row.ids), 13
    past = backbone.encode_prompt(model.task("topic").prompt) if cached else None
    alone = backbone.request(tiny.texts.pad([row]), past)[0]

    def padded(left: int) -> np.ndarray:
        ids, mask, types = (np.zeros((1, width), np.int64) for _ in range(3))
        place = slice(left, left + length)
        ids[0, place], mask[0, place], types[0, place] = row.ids, 1, row.types
        return backbone.request(Batch(ids, mask, types), past)[0, place]

    for left in (0, 2, width - length):
        np.testing.assert_allclose(padded(left), alone, atol=1e-5)


def test_what_stands_in_padding_is_not_seen(model: Model, backbone: OnnxBackbone, tiny: Backbone) -> None:
    batch = tiny.texts.pad(tiny.texts.encode(["a witty film", "dull"], 16))
    cache = backbone.encode_prompt(model.task("topic").prompt)
    other = replace(batch, input_ids=np.where(batch.attention_mask == 1, batch.input_ids, 40))
    assert (other.input_ids != batch.input_ids).any()
    visible = batch.attention_mask == 1
    np.testing.assert_allclose(
        backbone.request(other, cache)[visible], backbone.request(batch, cache)[visible], atol=1e-6
    )


def test_stack_pads_and_masks_shorter_prompts(mixed: Model, backbone: OnnxBackbone) -> None:
    caches = [backbone.encode_prompt(mixed.task(name).prompt) for name in ("topic", "longer")]
    joined, mask = stack(caches)
    np.testing.assert_array_equal(mask, [[1] * 6 + [0] * 5, [1] * 11])
    for name, value in joined.items():
        np.testing.assert_array_equal(value[0, :, :6], caches[0][name][0])
        np.testing.assert_array_equal(value[1], caches[1][name][0])


def test_mixed_batch_equals_single_runs(mixed: Model) -> None:
    texts = rows(60)
    names = [("sentiment", "longer", "topic")[i % 3] for i in range(60)]
    alone = [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)]
    assert len({len(text.split()) for text in texts}) > 5
    for size in (1, 7, 64):
        assert_same(mixed.run(texts, names, batch_size=size), alone)


def test_mixed_batch_with_pairs(mixed: Model) -> None:
    texts: list[Text] = ["a witty film", ("good film", "bad film"), "dull", ("vote", "law party atom")]
    names = ["sentiment", "same", "longer", "same"]
    alone = [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)]
    assert_same(mixed.run(texts, names), alone)


def test_order_is_kept(mixed: Model) -> None:
    texts = rows(300, seed=1)
    names = list(np.random.default_rng(2).choice(["sentiment", "topic", "longer"], 300, p=[0.7, 0.2, 0.1]))
    found = mixed.run(texts, names, batch_size=16)
    assert [answer.task for answer in found] == names
    vectors = np.array([next(iter(answer.similarities.values())) for answer in found])
    assert len(np.unique(vectors.round(5))) > 280  # texts give answers of their own, so an exchange would show
    assert_same(found, [mixed.task(name)(text) for text, name in zip(texts, names, strict=True)])


def test_many_rows_are_split_by_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = rows(40)
    expected = model.task("topic")(texts)
    shapes = []
    request = OnnxBackbone.request

    def spy(self: OnnxBackbone, batch: Batch, *rest: object) -> np.ndarray:
        shapes.append(batch.input_ids.shape)
        return request(self, batch, *rest)

    monkeypatch.setattr(OnnxBackbone, "request", spy)
    monkeypatch.setattr("mpt_edge.model._TOKENS_PER_RUN", 50)
    assert_same(model.run(texts, "topic"), expected)
    assert len(shapes) > 5
    assert all(count * width <= 50 for count, width in shapes)
    assert sum(count for count, _ in shapes) == 40


def test_list_in_list_out(model: Model) -> None:
    task = model.task("topic")
    single = task(TEXTS[0])
    assert isinstance(single, Prediction)
    many = task(TEXTS)
    assert isinstance(many, list)
    assert_same(many, [task(text) for text in TEXTS])
    assert_same(task([TEXTS[0]]), [single])
    assert task([]) == []
    assert model.run([], []) == []
    assert_same(model.run(TEXTS, "topic"), many)
    assert_same(model.run(tuple(TEXTS), ["topic"] * 5), many)


def test_pair(model: Model) -> None:
    task = model.task("same")
    assert task.kind == "pair"
    one, swapped = task(("good film", "bad law")), task(("bad law", "good film"))
    assert np.abs(vector(one) - vector(swapped)).max() > 1e-4  # segments and order are read
    assert_same(task([("good film", "bad law"), ("bad law", "good film")]), [one, swapped])
    with pytest.raises(InputError, match="text 1: this task reads pairs of texts"):
        task("good film")
    with pytest.raises(InputError, match="text 2: this task reads single texts"):
        model.task("topic")(["fine", ("good", "bad")])


def test_prediction(model: Model) -> None:
    for name in ("sentiment", "topic"):
        task = model.task(name)
        for answer in task(rows(20)):
            assert answer.task == name
            assert tuple(answer.scores) == tuple(answer.similarities) == task.labels
            assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-9)
            assert answer.score == answer.scores[answer.label] == max(answer.scores.values())
            assert answer.similarities[answer.label] == max(answer.similarities.values())
            assert all(0 <= chance <= 1 for chance in answer.scores.values())
            assert all(-1.00001 <= found <= 1.00001 for found in answer.similarities.values())
    assert len({answer.label for answer in model.task("topic")(rows(60))}) > 1


def test_text_equal_to_a_label_text_is_most_similar_to_it(model: Model) -> None:
    answer = model.task("topic")("vote party")
    assert answer.label == "law"
    assert answer.similarities["law"] == pytest.approx(1, abs=1e-5)


def test_truncated_flag(model: Model) -> None:
    task = model.task("topic")
    assert task.max_length == 16
    answers = task(["film " * 14, "film " * 15, LONG, "film"])
    assert [answer.truncated for answer in answers] == [False, True, True, False]
    assert vector(answers[1]) == pytest.approx(vector(answers[0]), abs=1e-5)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text(model: Model, text: str) -> None:
    with pytest.raises(InputError, match="text 1: the text is empty; pass at least one word"):
        model.task("topic")(text)
    with pytest.raises(InputError, match="text 3: the text is empty"):
        model.run(["a", "b", text], "topic")


def test_odd_texts_are_read(model: Model) -> None:
    for text in ["\x00", "\U0001d56c ü 漢字 🎬", "x" * 100_000, "\u200b", "{text} %s"]:
        assert sum(model.task("topic")(text).scores.values()) == pytest.approx(1)


def test_run_that_cannot_be_done(model: Model) -> None:
    with pytest.raises(InputError, match="2 texts but 1 tasks"):
        model.run(["a", "b"], ["topic"])
    with pytest.raises(InputError, match="batch size of 0"):
        model.run(["a"], "topic", batch_size=0)
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        model.run(["a"], ["topik"])
    with pytest.raises(InputError, match="-1 threads"):
        mpt_edge.load(model.bundle.folder, threads=-1)


def test_check(model: Model) -> None:
    assert model.check("a", "topic") == "a"
    assert model.check(["a", "b"], "same") == ("a", "b")
    with pytest.raises(InputError):
        model.check("a", "same")


def test_task_attributes(model: Model, shared_prompt: SharedPrompt) -> None:
    task = model.task("topic")
    assert (task.name, task.kind, task.labels) == ("topic", "classification", ("sport", "law", "science"))
    assert repr(task) == "Task('topic', 3 labels)"
    np.testing.assert_array_equal(task.prompt, compose(shared_prompt.values, task.file.u, task.file.v))
    assert model.tasks == ["same", "sentiment", "topic"]


def test_selecting_again_computes_nothing(fresh: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = OnnxBackbone.encode_prompt
    monkeypatch.setattr(OnnxBackbone, "encode_prompt", lambda *a: calls.append(1) or encode(*a))
    for _ in range(3):
        fresh.task("topic")("a film")
        fresh.run(["a film"], "topic")
    assert len(calls) == 1


def test_template(fresh: Model, tiny: Backbone, shared_prompt: SharedPrompt, tmp_path: Path) -> None:
    for name, template in (("templated", "the {text} was {text}"), ("untouched", "")):
        labels = {"no": "bad", "yes": "good"}
        vectors = {"u": np.ones(6, np.float16), "v": np.ones(32, np.float16)}
        make_task(tiny, shared_prompt, name, labels, template=template, **vectors).save(tmp_path / name)
        fresh.add_task(tmp_path / name)
    found, plain = fresh.run(["film", "the film was film"], ["templated", "untouched"])
    np.testing.assert_allclose(vector(found), vector(plain), atol=1e-5)
    assert np.abs(vector(found) - vector(fresh.task("untouched")("film"))).max() > 1e-3


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


def test_add_task_replaces(fresh: Model, tiny: Backbone, shared_prompt: SharedPrompt, tmp_path: Path) -> None:
    old = fresh.task("topic")
    before = old("a film")
    make_task(tiny, shared_prompt, "topic", {"x": "ball", "y": "law"}, version=2).save(tmp_path / "t")
    fresh.add_task(tmp_path / "t")
    assert fresh.task("topic").labels == ("x", "y")
    assert set(fresh.run(["a film"], "topic")[0].scores) == {"x", "y"}
    assert old("a film") == before  # a task in hand stays what it was


@pytest.mark.parametrize(
    "changes",
    [{"backbone": "0" * 64}, {"tokenizer": "0" * 64}, {"prompt_sha256": "0" * 64}, {"u": np.ones(7, np.float16)}],
    ids=lambda changes: next(iter(changes)),
)
def test_add_task_made_for_another(
    fresh: Model, tiny: Backbone, shared_prompt: SharedPrompt, tmp_path: Path, changes: dict[str, object]
) -> None:
    replace(make_task(tiny, shared_prompt, "fresh", {"no": "bad", "yes": "good"}), **changes).save(tmp_path / "t")
    with pytest.raises(MismatchError):
        fresh.add_task(tmp_path / "t")
    assert fresh.tasks == ["same", "sentiment", "topic"]


def test_add_task_that_is_no_file(fresh: Model, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="cannot read"):
        fresh.add_task(tmp_path / "none")


def test_prompt_that_overflows(fresh: Model, tiny: Backbone, shared_prompt: SharedPrompt, tmp_path: Path) -> None:
    huge = {"u": np.full(6, 3e38, np.float32), "v": np.full(32, 3e38, np.float32)}
    make_task(tiny, shared_prompt, "huge", {"no": "bad", "yes": "good"}, **huge).save(tmp_path / "t")
    with pytest.raises(MismatchError, match="the prompt of 'huge' overflows"), np.errstate(over="ignore"):
        fresh.add_task(tmp_path / "t")


def test_label_text_longer_than_the_backbone_reads(
    fresh: Model, tiny: Backbone, shared_prompt: SharedPrompt, tmp_path: Path
) -> None:
    labels = {"no": "bad film " * 60, "yes": "good"}
    make_task(tiny, shared_prompt, "wordy", labels, max_length=512).save(tmp_path / "t")
    answer = fresh.add_task(tmp_path / "t")("film " * 100)
    assert answer.truncated
    assert sum(answer.scores.values()) == pytest.approx(1)


def test_threads_give_the_same_answers(tiny_bundle: Path, long_prompt_task: Path) -> None:
    jobs = [(rows(8, seed), [("sentiment", "topic", "longer")[(i + seed) % 3] for i in range(8)]) for seed in range(24)]

    def load() -> Model:
        model = mpt_edge.load(tiny_bundle, threads=1)
        model.add_task(long_prompt_task)
        return model

    model = load()
    expected = [model.run(*job) for job in jobs]
    model = load()  # so that the threads also race to select the tasks
    with ThreadPoolExecutor(8) as pool_of_threads:
        found = list(pool_of_threads.map(lambda job: model.run(*job), jobs))
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, 1e-6)


@pytest.fixture
def joint_bundle(tiny_bundle: Path, tmp_path: Path, shared_prompt: SharedPrompt) -> Iterator[Callable[[], Model]]:
    """A bundle whose shared prompt was trained in the joint layout."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    file = folder / "prompts" / "mpt.safetensors"
    replace(shared_prompt, layout="joint").save(file)
    bundle = Bundle.open(folder)
    entry = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}
    bundle._write({**bundle.manifest.files, "prompts/mpt.safetensors": entry})
    return lambda: mpt_edge.load(folder, threads=1)


def test_joint_layout_in_a_mixed_batch(joint_bundle: Callable[[], Model], model: Model) -> None:
    joint = joint_bundle()
    texts, names = rows(12), ["sentiment", "topic"] * 6
    found = joint.run(texts, names)
    assert_same(found, [joint.task(name)(text) for text, name in zip(texts, names, strict=True)])
    prefix = model.run(texts, names)
    assert max(np.abs(vector(a) - vector(b)).max() for a, b in zip(found, prefix, strict=True)) > 1e-3


def test_pool() -> None:
    hidden = np.array([[[3.0, 4.0], [5.0, 12.0], [99.0, 99.0]], [[7.0, 7.0], [0.0, 2.0], [1.0, 0.0]]], np.float32)
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    by_hand = {
        "mean": [[4, 8], [0.5, 1]],
        "max": [[5, 12], [1, 2]],
        "cls": [[3, 4], [0, 2]],
    }
    for how, expected in by_hand.items():
        vectors = np.array(expected, np.float32)
        np.testing.assert_allclose(
            pool(hidden, mask, how), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6
        )


def test_unit_and_label_embeddings() -> None:
    np.testing.assert_array_equal(unit(np.array([[0, 0], [3, 4]], np.float32)), np.float32([[0, 0], [0.6, 0.8]]))
    texts = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(label_embeddings(texts, [0, 0, 1], 2), [[half, half], [0, -1]], rtol=1e-6)


def test_softmax() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0], [5.0, 5.0]])), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_array_equal(softmax(np.array([1e5, 0.0, -1e5], np.float32)), [1, 0, 0])


def test_encoder_of_the_bundle_is_the_trainings(model: Model, tiny: Backbone) -> None:
    texts = TextEncoder(model.bundle.tokenizer())
    assert texts.encode(TEXTS, 8) == tiny.texts.encode(TEXTS, 8)
    assert isinstance(texts.encode(["a"], 8)[0], Encoded)


def test_a_readout_whose_head_is_not_there(tiny_bundle: Path, tmp_path: Path) -> None:
    """A task may leave its head to the shared prompt, which then must have one."""
    bundle = Bundle.open(Path(shutil.copytree(tiny_bundle, tmp_path / "bundle")))
    task = replace(bundle.task("topic"), name="headless", readout="tokens", label_texts=())
    task.save(tmp_path / "headless.safetensors")
    bundle.install(tmp_path / "headless.safetensors")
    with pytest.raises(MismatchError, match="answers by a head of 3 outputs, and its prompt 'mpt' has none"):
        mpt_edge.load(bundle.folder).task("headless")
