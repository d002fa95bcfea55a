"""Pages for people: the documentation of all routes, and static files. Nothing in them is of another host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from mpt_edge.server.gate import STATIC

#: Folder of static files; its index.html is the page at /.
FOLDER = Path(__file__).with_name("static")

_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}

#: Headers of the documentation, which has no scripts.
HEADERS = _SAFE | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
}

#: Headers of the page at / and its files. A browser loads files of this server alone for it, runs no script but these,
#: and lets none of them make HTML of a text.
PAGE_HEADERS = _SAFE | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a browser asks whether its copy is still that of this server
}

#: Types of the static files. Those of the operating system may differ, and a browser runs no module of another type.
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mpt-edge</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:50rem;margin:auto;padding:1rem}
code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:.5rem;border:1px solid}</style></head><body>"""


def add_pages(app: FastAPI) -> None:
    """Add /docs, /, and /static with the files of `FOLDER`."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()), headers=HEADERS)

    files = _read_files()

    @routes.get("/")
    async def index(request: Request) -> Response:
        return _file(request, *files["index.html"])

    @routes.get(STATIC + "{name}")
    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _file(request, *files[name])

    app.include_router(routes)


def _read_files() -> dict[str, tuple[bytes, str]]:
    """Return content and type of the static files. They are small, and from memory they need no thread."""
    files = (path for path in FOLDER.iterdir() if path.suffix in _TYPES)
    return {path.name: (path.read_bytes(), f"{_TYPES[path.suffix]}; charset=utf-8") for path in files}


def _file(request: Request, content: bytes, kind: str) -> Response:
    """Return a file, or 304 where the browser has it."""
    headers = PAGE_HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


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
