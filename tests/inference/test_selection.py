"""Selected tasks: each prepared once, none waits for another, and a budget of bytes is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.errors import InputError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.heads import Embedding
from mpt_edge.inference.heads.base import SelectedTask
from mpt_edge.inference.selection import Selection, task_bytes
from tests.support.heads import compose, make_file

#: Seconds after which a thread that waits for ever has failed.
LIMIT = 30


def selected(size: int, name: str = "a") -> SelectedTask:
    """Return a task whose arrays have ``size`` bytes, those of its file included."""
    nothing = np.zeros(0, np.float32)
    file = make_file("embedding", name=name, u=nothing, v=nothing)
    cache = {"past_key_values.0.key": np.zeros(size, np.uint8)}
    task = replace(compose(file, None), cache=cache, prompt=nothing)  # type: ignore[arg-type]
    result = SelectedTask(**vars(task), head=Embedding(task.file))
    assert task_bytes(result) == size
    return result


def test_a_dropped_task_is_selected_again() -> None:
    selection = Selection(1000)
    selection.get("a", lambda: selected(300))
    assert "a" in selection
    selection.drop("a")
    selection.drop("b")
    assert ("a" in selection, selection.names, selection.bytes) == (False, [], 0)
    assert selection.get("a", lambda: selected(200)) is selection.get("a", pytest.fail)


def test_a_task_that_is_dropped_while_it_is_selected_is_not_kept() -> None:
    selection = Selection(1000)

    def select() -> SelectedTask:
        selection.drop("a")
        return selected(300)

    selection.get("a", select)
    assert selection.names == []


def test_the_least_recently_used_go_first() -> None:
    selection = Selection(1000)
    for name in "abc":
        selection.get(name, lambda: selected(300))
    selection.get("a", pytest.fail)
    selection.get("d", lambda: selected(300))
    assert (selection.names, selection.bytes) == (["c", "a", "d"], 900)
    selection.get("e", lambda: selected(700))
    assert (selection.names, selection.bytes) == (["d", "e"], 1000)
    selection.put("d", selected(900))
    assert (selection.names, selection.bytes) == (["d"], 900)


def test_a_task_beyond_the_budget_is_kept_until_the_next() -> None:
    selection = Selection(1000)
    large = selection.get("large", lambda: selected(5000))
    assert selection.get("large", pytest.fail) is large
    selection.get("small", lambda: selected(110))
    assert (selection.names, selection.bytes) == (["small"], 110)


def test_threads_that_ask_for_one_task_select_it_once() -> None:
    selection, barrier, calls = Selection(), threading.Barrier(8), list[int]()
    started, may_end = threading.Event(), threading.Event()

    def select() -> SelectedTask:
        calls.append(1)
        started.set()
        assert may_end.wait(LIMIT)
        return selected(300)

    def ask(_: int) -> SelectedTask:
        barrier.wait(LIMIT)
        return selection.get("a", select)

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(ask, i) for i in range(8)]
        assert started.wait(LIMIT)
        may_end.set()
        assert len({id(result.result(LIMIT)) for result in results}) == 1
    assert calls == [1]


def test_selecting_one_task_does_not_block_another() -> None:
    """The first is being selected until the second has been."""
    selection, second_is_there = Selection(), threading.Event()

    def slow() -> SelectedTask:
        assert second_is_there.wait(LIMIT)
        return selected(300)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(selection.get, "first", slow)
        selection.get("second", lambda: selected(300))
        second_is_there.set()
        first.result(LIMIT)
    assert selection.names == ["second", "first"]


def test_an_error_reaches_all_and_is_forgotten() -> None:
    selection, started, may_end = Selection(), threading.Event(), threading.Event()

    def fail() -> SelectedTask:
        started.set()
        assert may_end.wait(LIMIT)
        raise InputError("no.")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(selection.get, "a", fail)
        assert started.wait(LIMIT)
        second = pool.submit(selection.get, "a", fail)
        may_end.set()
        for result in (first, second):
            with pytest.raises(InputError, match="no"):
                result.result(LIMIT)
    assert selection.get("a", lambda: selected(300)).file.name == "a"


def test_a_task_that_was_put_meanwhile_stays() -> None:
    selection, put = Selection(), selected(500)

    def select() -> SelectedTask:
        selection.put("a", put)
        return selected(300)

    selection.get("a", select)
    assert selection.get("a", pytest.fail) is put
    assert selection.bytes == 500


def test_a_model_within_its_budget(tiny_bundle: Path, task_file: Callable[..., Path]) -> None:
    """Tasks that were let go answer as before: those of the bundle, one that was added, and one that is in use."""
    names = Bundle.open(tiny_bundle).task_names
    whole = mpt_edge.load(tiny_bundle, threads=1)
    whole.add_task(task_file())
    names = [*names, "fresh"]
    pair = {"same": ("a film", "dull")}
    expected = {name: whole.task(name)(pair.get(name, "a witty film")) for name in names}
    assert whole.cached_tasks[-1] == names[-1]
    model = mpt_edge.load(tiny_bundle, threads=1, max_cache_bytes=1)
    held = model.task(names[0])
    model.add_task(task_file())
    for name in names * 2:
        assert model.task(name)(pair.get(name, "a witty film")) == expected[name]
        assert model.cached_tasks == [name]
    assert model.cache_bytes < whole.cache_bytes
    assert held(pair.get(names[0], "a witty film")) == expected[names[0]]
    texts = [pair.get(name, "a witty film") for name in names]
    assert model.run(texts, names) == [expected[name] for name in names]


def test_threads_with_evictions(tiny_bundle: Path) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1, max_cache_bytes=1)
    expected = {name: model.task(name)("a witty film") for name in ("topic", "sentiment")}
    barrier = threading.Barrier(4)

    def ask(i: int) -> bool:
        barrier.wait(LIMIT)
        names = ["topic", "sentiment"][:: 1 if i % 2 else -1] * 10
        return all(model.task(name)("a witty film") == expected[name] for name in names)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def test_unknown_tasks_are_asked_for_again(
    folder: Path, task_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mpt_edge.load(folder, threads=1)
    with pytest.raises(UnknownTaskError):
        model.task("fresh")
    Bundle.open(folder).install_untested(task_file())
    composed = list[str]()
    original = EncoderModel._compose

    def compose_once(self: EncoderModel, file: TaskFile) -> SelectedTask:
        composed.append(file.name)
        return original(self, file)

    monkeypatch.setattr(EncoderModel, "_compose", compose_once)
    assert model.task("fresh").name == model.task("fresh").name == "fresh"
    assert composed == ["fresh"]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "64"])
def test_budgets_that_are_none(tiny_bundle: Path, value: object) -> None:
    with pytest.raises(InputError, match=r"a budget of bytes of .* is not possible; pass 1 or more"):
        mpt_edge.load(tiny_bundle, max_cache_bytes=value)  # type: ignore[arg-type]
