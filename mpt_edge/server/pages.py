"""Pages for people: the documentation of all routes, and static files. Nothing in them is of another host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from mpt_edge.server.gate import STATIC

#: Folder of static files; its index.html is the page at /.
FOLDER = Path(__file__).with_name("static")

#: What a browser may load for a page: files of this server alone.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mpt-edge</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:50rem;margin:auto;padding:1rem}
code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:.5rem;border:1px solid}</style></head><body>"""


def add_pages(app: FastAPI) -> None:
    """Add /docs, /, and /static with the files of `FOLDER` if there are any."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()), headers=HEADERS)

    @routes.get("/")
    async def index() -> Response:
        file = FOLDER / "index.html"
        return FileResponse(file, headers=HEADERS) if file.is_file() else await docs()

    app.include_router(routes)
    if FOLDER.is_dir():
        app.mount(STATIC.rstrip("/"), StaticFiles(directory=FOLDER))


def page(schema: dict[str, Any]) -> str:
    """Return a page of HTML that shows an OpenAPI schema."""
    return "\n".join([_HEAD, *_body(schema), "</body></html>"])


def _body(schema: dict[str, Any]) -> Iterator[str]:
    info = schema["info"]
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
    yield '<p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>'
    sections: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            sections.setdefault(route.get("tags", ["Other"])[0], []).append(_route(path, method, route))
    for title, routes in sections.items():
        yield f"<h2>{escape(title)}</h2>"
        yield from routes


def _route(path: str, method: str, route: dict[str, Any]) -> str:
    result = f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(route['summary'])}.</p>"
    content = route.get("requestBody", {}).get("content", {})
    for kind, body in content.items():
        text = escape(json.dumps(body["schema"], indent=2))
        result += f"<details><summary>Body: {escape(kind)}</summary><pre>{text}</pre></details>"
    return result
