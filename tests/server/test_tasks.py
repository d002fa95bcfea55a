"""Tasks of a running server: shown to all, changed with an admin key, and never under a request's feet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.server.keys import Keys
from tests.support import http
from tests.support.http import App

USER, ADMIN = "user-0123456789abcdef", "root-0123456789abcdef"


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Iterator[App]:
    """Return an app with both kinds of keys on a bundle of its own."""
    (tmp_path / "keys").write_text(f"{USER}\nadmin:{ADMIN}\n")
    with http.ready(mpt_edge.load(folder, threads=1), keys=Keys.read(tmp_path / "keys")) as made:
        made.headers["authorization"] = f"Bearer {ADMIN}"
        yield made


def test_listing_and_showing(app: App, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    tasks = app.get("/tasks").json["tasks"]
    assert [each["task"] for each in tasks] == bundle.task_names
    assert {each["task"]: each["bytes"] for each in tasks}["topic"] == bundle.task_bytes("topic")
    shown = app.get("/tasks/topic").json
    assert shown["labels"] == ["sport", "law", "science"]
    assert (shown["u"], shown["v"], shown["max_length"]) == ([6], [32], 16)
    vectors = app.get("/tasks/topic/vectors").json
    np.testing.assert_array_equal(np.float16(vectors["u"]), bundle.task("topic").u)
    np.testing.assert_array_equal(np.float16(vectors["v"]), bundle.task("topic").v)
    assert app.get("/tasks/nothing").status == app.get("/tasks/nothing/vectors").status == 404


def test_a_damaged_task_is_listed_with_its_error(own: App) -> None:
    folder = own.service.model.bundle.folder
    (path,) = (folder / "tasks").glob("topic*")
    path.write_bytes(path.read_bytes()[:-1])
    tasks = {each["task"]: each for each in own.get("/tasks").json["tasks"]}
    assert "bytes instead of" in tasks["topic"]["error"]
    assert "error" not in tasks["same"]


def test_install_replace_roll_back_and_remove(own: App, task_file: Callable[..., Path]) -> None:
    folder = own.service.model.bundle.folder
    installed = own.post("/tasks", task_file("fresh").read_bytes())
    assert (installed.status, installed.json["task"], installed.json["version"]) == (201, "fresh", 1)
    assert "fresh" in Bundle.open(folder).task_names
    first = own.post("/predict?task=fresh", {"inputs": "a good film"}).json
    newer = task_file("fresh", version=2, u=np.linspace(0, 2, 6).astype(np.float16))
    assert own.post("/tasks", newer.read_bytes()).json["version"] == 2
    second = own.post("/predict?task=fresh", {"inputs": "a good film"}).json
    assert second != first
    assert own.post("/tasks/fresh/rollback", b"").json["version"] == 1
    assert own.post("/predict?task=fresh", {"inputs": "a good film"}).json == first
    assert own.call("DELETE", "/tasks/fresh").status == 204
    assert own.post("/predict?task=fresh", {"inputs": "a good film"}).status == 404
    assert "fresh" not in Bundle.open(folder).task_names
    assert own.get("/v1/models/fresh").status == 404


def test_a_request_under_way_keeps_its_version(
    own: App, task_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, began, may_go_on = own.service.model, threading.Event(), threading.Event()
    names = {"labels": ("other", "names"), "label_texts": (("bad",), ("good",)), "version": 2}
    data = task_file("sentiment", **names).read_bytes()
    answer = model.answer

    def held(requests, **options):
        began.set()
        may_go_on.wait(10)
        return answer(requests, **options)

    async def ask() -> tuple[http.Reply, http.Reply]:
        body = [b'{"inputs": "a good film"}']
        running = asyncio.ensure_future(own.send("POST", "/predict?task=sentiment", body))
        await asyncio.get_running_loop().run_in_executor(None, began.wait, 10)
        assert (await own.send("POST", "/tasks", [data])).status == 201
        may_go_on.set()
        return await running, await own.send("POST", "/predict?task=sentiment", body)

    own.post("/predict?task=sentiment", {"inputs": "a"})
    monkeypatch.setattr(model, "answer", held)
    before, after = own.run(ask())
    assert {row["label"] for row in before.json} == {"bad", "good"}
    assert {row["label"] for row in after.json} == {"other", "names"}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/tasks"), ("POST", "/tasks/topic/rollback"), ("DELETE", "/tasks/topic")]
)
def test_only_an_admin_key_changes_tasks(own: App, app: App, method: str, path: str) -> None:
    reply = own.call(method, path, b"data", authorization=f"Bearer {USER}")
    assert (reply.status, "admin key" in reply.error) == (403, True)
    assert own.call(method, path, b"data", authorization="Bearer x").status == 401
    reply = app.call(method, path, b"data")  # a server without keys
    assert (reply.status, "--api-key-file" in reply.error) == (403, True)
    assert own.get("/v1/models/topic").status == 200


def test_files_that_are_no_tasks_of_this_bundle(own: App, task_file: Callable[..., Path]) -> None:
    before = own.get("/tasks").json
    reply = own.post("/tasks", b"no task file")
    assert (reply.status, reply.error.split(" is ")[0]) == (422, "the upload")
    assert own.post("/tasks", b"").status == 400
    reply = own.post("/tasks", task_file("alien", backbone="another").read_bytes())
    assert (reply.status, "made for another backbone" in reply.error) == (422, True)
    assert own.post("/tasks/topic/rollback", b"").status == 422
    assert own.call("DELETE", "/tasks/nothing").status == 404
    assert own.get("/tasks").json == before
