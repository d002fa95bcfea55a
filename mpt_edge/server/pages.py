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
    """Add /docs, /, and /static with the files of `FOLDER` if there are any."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()), headers=HEADERS)

    @routes.get("/")
    async def index() -> Response:
        return FileResponse(FOLDER / "index.html", headers=PAGE_HEADERS)

    app.include_router(routes)
    app.mount(STATIC.rstrip("/"), _Files(directory=FOLDER))


class _Files(StaticFiles):
    """Static files with the headers of the page."""

    def file_response(self, full_path: Any, *args: Any, **options: Any) -> Response:
        """Return a file, or 304 where the browser has it."""
        response = super().file_response(full_path, *args, **options)
        response.headers.update(PAGE_HEADERS)
        response.headers["Content-Type"] = f"{_TYPES[Path(full_path).suffix]}; charset=utf-8"
        return response


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
