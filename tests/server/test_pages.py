"""Pages: complete, and without anything from another host."""

from __future__ import annotations

import re

from mpt_edge.server import pages
from tests.support.http import App


def test_the_documentation_has_every_route_and_loads_nothing(app: App) -> None:
    schema, reply = app.get("/openapi.json").json, app.get("/docs")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in text
    assert {"/predict", "/v1/completions", "/v2/models/{name}/infer", "/tasks/{name}/rollback"} <= set(schema["paths"])
    assert not re.search(r"<script|<link|<img|https?://", text)
    assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_bodies_are_documented(app: App) -> None:
    for path, methods in app.get("/openapi.json").json["paths"].items():
        if "post" in methods and not path.endswith("rollback"):
            assert methods["post"]["requestBody"]["content"], path


def test_names_are_escaped() -> None:
    info = {"title": "<b>", "version": "1", "description": "a & b"}
    text = pages.page({"info": info, "paths": {"/<x>": {"get": {"summary": "<i>"}}}})
    assert "<b>" not in text
    assert "/&lt;x&gt;" in text


def test_the_root_is_a_page(app: App) -> None:
    assert app.get("/").headers["content-type"].startswith("text/html")
