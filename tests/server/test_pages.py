"""Pages: complete, and without anything from another host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpt_edge.server import pages
from tests.support.http import App

FILES = {path.name for path in pages.FOLDER.iterdir()}


def test_the_documentation_has_every_route_and_loads_nothing(app: App) -> None:
    schema, reply = app.get("/openapi.json").json, app.get("/docs")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in text
    assert {"/predict", "/v1/completions", "/v2/models/{name}/infer", "/tasks/{name}/rollback"} <= set(schema["paths"])
    assert not re.search(r"<script|<link|<img|https?://", text)
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "script-src" not in reply.headers["content-security-policy"]


def test_bodies_are_documented(app: App) -> None:
    for path, methods in app.get("/openapi.json").json["paths"].items():
        if "post" in methods and not path.endswith("rollback"):
            assert methods["post"]["requestBody"]["content"], path


def test_names_are_escaped() -> None:
    info = {"title": "<b>", "version": "1", "description": "a & b"}
    text = pages.page({"info": info, "paths": {"/<x>": {"get": {"summary": "<i>"}}}})
    assert "<b>" not in text
    assert "/&lt;x&gt;" in text


def test_the_page_loads_its_own_files_alone(app: App) -> None:
    reply = app.get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.strip().split(" ", 1) for each in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', reply.body.decode())
    assert set(addresses) == {"docs", *(f"static/{name}" for name in FILES - {"index.html"})}


@pytest.mark.parametrize("name", sorted(FILES))
def test_static_files(app: App, name: str) -> None:
    reply = app.get(f"/static/{name}")
    kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert (reply.status, reply.headers["content-type"]) == (200, f"{kinds[Path(name).suffix]}; charset=utf-8")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert app.get(f"/static/{name}", if_none_match=reply.headers["etag"]).status == 304
    text = reply.body.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=|\sstyle=", text)
    assert len(text.splitlines()) < 400


def test_no_other_file_is_served(app: App) -> None:
    assert [app.get(f"/static/{name}").status for name in ("", "nothing.js", "../app.py", "%2e%2e/app.py")] == [404] * 4
