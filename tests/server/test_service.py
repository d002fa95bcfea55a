"""The service: answers as the model's own, one bad text beside good ones, versions that requests keep."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, UnknownTaskError
from mpt_edge.inference.answers import Generation
from mpt_edge.inference.generation.search import generate
from mpt_edge.inference.model import Model
from mpt_edge.server.limits import Limits
from mpt_edge.server.problems import Problem
from mpt_edge.server.service import GoneError, Service
from tests.support import http
from tests.support.http import App

TEXTS = ["a good film", "ball", "vote party and a star", "dull", "the witty text was great"]


@pytest.fixture
def own(folder: Path) -> Iterator[App]:
    """Return an app on a bundle and a model of its own."""
    with http.ready(mpt_edge.load(folder, threads=1)) as made:
        yield made


def test_answers_are_those_of_the_model(app: App, encoder: Model) -> None:
    tasks = ["topic", "sentiment", "topic", "sentiment", "topic"]

    async def ask() -> list[object]:
        prepared = await app.service.prepare(TEXTS, tasks)
        return await app.service.answer(prepared)

    answers = app.run(ask())
    for answer, expected in zip(answers, encoder.run(TEXTS, tasks), strict=True):
        assert answer.label == expected.label
        assert list(answer.scores.values()) == pytest.approx(list(expected.scores.values()), abs=1e-6)


def test_requests_of_many_clients_share_batches_and_get_the_same_answers(app: App, encoder: Model) -> None:
    tasks = ["topic", "sentiment"] * 20
    texts = [f"{TEXTS[i % 5]} {'good ' * (i % 4)}" for i in range(40)]
    before = app.service.metrics.text()

    async def one(i: int) -> object:
        return (await app.service.answer(await app.service.prepare([texts[i]], [tasks[i]])))[0]

    async def ask() -> list[object]:
        return await asyncio.gather(*map(one, range(40)))

    for answer, expected in zip(app.run(ask()), encoder.run(texts, tasks), strict=True):
        assert answer.scores == pytest.approx(dict(expected.scores), abs=1e-6)
    assert _batches(app.service.metrics.text()) - _batches(before) < 10


def _batches(metrics: bytes) -> float:
    line = next(
        (line for line in metrics.splitlines() if line.startswith(b'mpt_edge_batch_texts_count{queue="answers"}')), b"0"
    )
    return float(line.split()[-1])


def test_each_bad_text_has_its_own_error(app: App) -> None:
    results = app.run(app.service.prepare(["a film", "", "b"], ["topic", "topic", "none"]))
    assert isinstance(results[1], InputError)
    assert isinstance(results[2], UnknownTaskError)
    assert len(app.run(app.service.answer(results[:1]))) == 1


def test_a_request_that_fails_alone_spoils_no_other(own: App, monkeypatch: pytest.MonkeyPatch) -> None:
    model = own.service.model
    answer = model.answer

    def fail(requests, **options):
        if any(request.row.text == "dull" for request in requests):
            raise CorruptFileError("damaged")
        return answer(requests, **options)

    monkeypatch.setattr(model, "answer", fail)

    async def ask() -> list[object]:
        return await own.service.answer(await own.service.prepare(TEXTS, ["topic"] * 5))

    results = own.run(ask())
    assert [isinstance(each, CorruptFileError) for each in results] == [False, False, False, True, False]


def test_a_request_keeps_the_version_it_was_prepared_with(own: App, task_file: Callable[..., Path]) -> None:
    model = own.service.model
    swapped = task_file("sentiment", labels=("other", "names"), label_texts=(("bad",), ("good",)))

    async def ask() -> tuple[str, str]:
        old = await own.service.prepare(["a good film"], ["sentiment"])
        model.add_task(swapped)
        new = await own.service.prepare(["a good film"], ["sentiment"])
        (first, second) = await own.service.answer([*old, *new])
        return first.label, second.label

    first, second = own.run(ask())
    assert first in ("bad", "good")
    assert second in ("other", "names")


def test_a_full_queue_says_when_to_try_again(encoder: Model) -> None:
    with http.ready(encoder, limits=Limits(queue=2)) as app:

        async def ask() -> None:
            await app.service.answer(await app.service.prepare(["a"] * 3, ["topic"] * 3))

        with pytest.raises(Problem) as caught:
            app.run(ask())
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1


def test_a_client_that_leaves_frees_the_queue(own: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpt_edge.server.service._LOOK", 0.001)
    model, held = own.service.model, threading.Event()
    answer = model.answer

    def wait(requests, **options):
        held.wait(10)
        return answer(requests, **options)

    monkeypatch.setattr(model, "answer", wait)

    async def gone() -> bool:
        return True

    async def ask() -> None:
        busy = asyncio.ensure_future(own.service.answer(await own.service.prepare(["a"], ["topic"])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(GoneError):
            await own.service.answer(await own.service.prepare(["b"] * 5, ["topic"] * 5), gone)
        await asyncio.sleep(0)
        assert own.service.waiting == 0
        held.set()
        assert len(await busy) == 1

    own.run(ask())


def test_a_stream_and_a_long_text_do_not_keep_labels_waiting(writing: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither goes on before the label is there, so a label that waited for them would come last."""
    is_labeled = threading.Event()

    def held(*arguments):
        is_labeled.wait(5)
        yield from generate(*arguments)

    monkeypatch.setattr("mpt_edge.inference.heads.text_generation.generate", held)
    ended: list[str] = []

    async def read() -> None:
        pieces = [piece async for piece in await writing.service.stream("Tom had", "story", {})]
        assert isinstance(pieces[-1], Generation)
        ended.append("stream")

    async def write() -> None:
        await writing.service.answer(await writing.service.prepare(["The cat"], ["story"]))
        ended.append("text")

    async def label() -> None:
        await writing.service.answer(await writing.service.prepare(["The cat"], ["mood"]))
        ended.append("label")
        is_labeled.set()

    async def ask() -> None:
        await asyncio.gather(read(), write(), label())

    writing.run(ask())
    assert ended[0] == "label"
    assert sorted(ended[1:]) == ["stream", "text"]


def test_texts_and_labels_of_one_request(writing: App, generator: Model) -> None:
    tasks = ["story", "mood", "ask"]

    async def ask() -> list[object]:
        return await writing.service.answer(await writing.service.prepare(["The cat"] * 3, tasks))

    story, mood, answer = writing.run(ask())
    expected = generator.run(["The cat"] * 3, tasks)
    assert (story.text, mood.label, answer.text) == (expected[0].text, expected[1].label, expected[2].text)


def test_requests_for_a_task_that_is_being_selected_share_its_thread(own: App, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, may_go_on = own.service.model, [], threading.Event()
    task = model.task

    def slow(name):
        calls.append(name)
        if name == "topic" and not model.is_selected(name):
            may_go_on.wait(10)
        return task(name)

    monkeypatch.setattr(model, "task", slow)

    async def ask() -> None:
        many = [asyncio.ensure_future(own.service.prepare(["a film"], ["topic"])) for _ in range(20)]
        await own.service.prepare(["a film"], ["sentiment"])  # finds a thread
        assert calls.count("topic") == 1
        may_go_on.set()
        assert all(len(each) == 1 for each in await asyncio.gather(*many))

    own.run(ask())


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with http.app(lambda: mpt_edge.load(tmp_path)) as app:
        assert isinstance(app.service, Service)
        with pytest.raises(mpt_edge.BundleNotFoundError):
            app.run(app.service.load())
        with pytest.raises(Problem):
            app.service.check_ready()
