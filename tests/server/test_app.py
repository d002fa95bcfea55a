"""The app as a whole: unknown routes and methods, and errors that nobody foresaw."""

from __future__ import annotations

import pytest

from tests.support.http import App


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nowhere", 404, "there is no /nowhere"),
        ("GET", "/v1/nowhere", 404, "there is no /v1/nowhere"),
        ("GET", "/v2/nowhere", 404, "there is no /v2/nowhere"),
        ("GET", "/predict", 405, "has no method GET"),
        ("PUT", "/tasks", 405, "has no method PUT"),
    ],
)
def test_unknown_routes_and_methods(app: App, method: str, path: str, status: int, message: str) -> None:
    reply = app.call(method, path, b"{}")
    assert reply.status == status
    assert message in reply.error
    assert "/docs" in reply.error


def test_an_error_that_nobody_foresaw_tells_nothing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise KeyError("/secret/path")

    async def send() -> list[dict]:
        sent = []

        async def receive() -> dict:
            return {"type": "http.request", "body": b'{"inputs": "a"}', "more_body": False}

        async def keep(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "root_path": "",
            "query_string": b"task=topic", "headers": [(b"content-length", b"15")], "server": ("localhost", 80),
            "scheme": "http", "asgi": {"version": "3.0"}, "client": ("127.0.0.1", 1), "http_version": "1.1",
        }  # fmt: skip
        with pytest.raises(KeyError):  # for the log
            await app.gate(scope, receive, keep)
        return sent

    monkeypatch.setattr(app.service, "prepare", fail)
    start, body = app.run(send())
    assert start["status"] == 500
    assert b"its log has the reason" in body["body"]
    assert b"secret" not in body["body"]


def test_metrics_of_requests(app: App) -> None:
    app.post("/predict?task=topic", {"inputs": "a"})
    app.get("/some/other")
    text = app.get("/metrics").body.decode()
    assert 'mpt_edge_request_seconds_count{route="/predict",status="200"}' in text
    assert 'mpt_edge_texts_total{task="topic"}' in text
    assert "/some/other" not in text  # names that clients choose make no series
