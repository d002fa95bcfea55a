"""The gate: host, origin, key, state, and the size of bodies, before any route."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mpt_edge.inference.model import Model
from mpt_edge.server import gate
from mpt_edge.server.keys import Keys
from mpt_edge.server.limits import Limits
from mpt_edge.server.service import State
from tests.support import http
from tests.support.http import App

USER = "user-0123456789abcdef"
BODY = {"inputs": "a good film"}


@pytest.fixture(scope="module")
def closed(encoder: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Return an app with a key, names of hosts, and a small limit."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(USER)
    options = {"keys": Keys.read(path), "hosts": ["localhost", "[::1]"], "limits": Limits(body_bytes=1000)}
    with http.ready(encoder, **options) as made:
        yield made


def bearer(key: str = USER) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "[::1]:80"])
def test_own_names_are_served(closed: App, host: str) -> None:
    assert closed.post("/predict?task=topic", BODY, host=host, **bearer()).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "127.0.0.2", "", "[::2]"])
def test_other_names_are_refused(closed: App, host: str) -> None:
    reply = closed.post("/predict?task=topic", BODY, host=host, **bearer())
    assert reply.status == 421
    assert "--allowed-host" in reply.error


@pytest.mark.parametrize(
    ("origin", "status"), [("http://localhost", 200), ("http://evil.example", 403), ("null", 403), ("", 403)]
)
def test_pages_of_other_sites_are_refused(closed: App, origin: str, status: int) -> None:
    assert closed.post("/predict?task=topic", BODY, origin=origin, **bearer()).status == status


def test_a_key_is_needed_but_for_health_and_pages(closed: App) -> None:
    for path in ("/health", "/v2/health/live", "/v2/health/ready", "/docs", "/", "/openapi.json"):
        assert closed.get(path).status == 200, path
    for path in ("/info", "/metrics", "/v1/models", "/tasks", "/v2", "/nowhere"):
        reply = closed.get(path)
        assert reply.status == 401, path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert closed.get(path, **bearer(USER[::-1])).status == 401
    assert closed.get("/info", **bearer()).status == 200
    assert "there is no key" in closed.get("/info").error
    assert "not valid" in closed.get("/info", **bearer("no")).error


def test_nothing_allows_other_origins_to_read(closed: App) -> None:
    reply = closed.post("/predict?task=topic", BODY, origin="http://localhost", **bearer())
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_a_body_that_says_that_it_is_too_large_is_not_read(closed: App) -> None:
    reply = closed.run(closed.send("POST", "/predict", [b"x"], {"content-length": "1001", **bearer()}))
    assert reply.status == 413
    assert "1,000 bytes" in reply.error


def test_a_body_without_a_size_is_stopped_at_the_limit(closed: App) -> None:
    parts = [b"x" * 100] * 50
    headers = {"transfer-encoding": "chunked", "content-length": "", **bearer()}
    reply = closed.run(closed.send("POST", "/predict", parts, headers))
    assert reply.status == 413
    assert reply.headers["connection"] == "close"


def test_a_body_that_does_not_come_is_not_waited_for(closed: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "READ_SECONDS", 0.01)
    monkeypatch.setattr(gate, "DRAIN_SECONDS", 0.01)

    async def half() -> http.Reply:
        return await closed.send("POST", "/predict", [], {"content-length": "10", **bearer()})

    assert closed.run(half()).status == 408


def test_a_client_that_leaves_before_its_body_is_whole_gets_nothing(closed: App) -> None:
    before = closed.service.waiting
    reply = closed.run(closed.send("POST", "/predict", [b"{", b"}"], bearer(), leave_after=1))
    assert reply.status == 0
    assert closed.service.waiting == before
    assert closed.gate.running == 0


def test_bodies_of_all_requests_are_bounded(closed: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HELD_BYTES", 1500 - closed.gate._upload_bytes)

    async def ask() -> list[http.Reply]:
        parts, headers = [b" " * 400, b" " * 400], {**bearer(), "content-length": "800"}
        never = [closed.send("POST", "/predict", parts[:1], headers, is_whole=False) for _ in range(3)]
        waiting = [asyncio.ensure_future(each) for each in never]
        await asyncio.sleep(0)
        refused = await closed.send("POST", "/predict", parts, headers)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [refused, await closed.send("POST", "/predict", parts, headers)]

    refused, accepted = closed.run(ask())
    assert (refused.status, "too many large bodies" in refused.error) == (503, True)
    assert accepted.status == 400  # blank, so no JSON
    assert closed.gate._held == 0


def test_an_app_that_loads_says_so() -> None:
    with http.app(lambda: pytest.fail("not loaded here")) as loading:
        for path in ("/health", "/v2/health/ready", "/info", "/v1/models", "/v2/models/a"):
            reply = loading.get(path)
            assert reply.status == 503, path
            assert "being loaded" in reply.error
            assert reply.headers["retry-after"] == "5"
        assert loading.get("/v2/health/live").status == 200
        assert loading.get("/metrics").status == 200


def test_an_app_that_stops_refuses_requests_and_finishes_those_it_has(encoder: Model) -> None:
    with http.ready(encoder) as app:

        async def run() -> tuple[http.Reply, http.Reply, http.Reply]:
            accepted = asyncio.ensure_future(app.send("POST", "/predict?task=topic", [b'{"inputs": "a film"}']))
            await asyncio.sleep(0)
            app.service.state = State.STOPPING
            refused = await app.send("POST", "/predict?task=topic", [b'{"inputs": "a film"}'])
            health = await app.send("GET", "/health", [b""])
            await app.gate.idle()
            assert accepted.done()
            return await accepted, refused, health

        accepted, refused, health = app.run(run())
        assert accepted.status == 200
        assert refused.status == health.status == 503
        assert "stopping" in refused.error
