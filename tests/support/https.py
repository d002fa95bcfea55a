"""A server on this machine, over HTTPS with a certificate made here, that misbehaves as told."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import trustme

Handler = BaseHTTPRequestHandler

#: Answers a request for a path.
Answer = Callable[[Handler], None]


@dataclass
class Server:
    """A running server.

    Attributes:
        address: its start of an address.
        answers: what it does, by path; 404 for others.
        requests: path and headers of each request.
    """

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def offer(self, path: str, answer: Answer) -> str:
        """Answer a path so, and return its address."""
        self.answers[path] = answer
        return self.address + path

    def ranges(self, path: str) -> list[str | None]:
        """Return the ranges that were asked for."""
        return [headers.get("range") for name, headers in self.requests if name == path]


@contextmanager
def serve(authority: trustme.CA | None) -> Iterator[Server]:
    """Run a server, with a certificate if an authority is given."""
    server: Server

    class OneHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
            server.answers.get(path, status(404))(self)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Print nothing where a client leaves."""

    running = QuietServer(("127.0.0.1", 0), OneHandler)
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        running.socket = context.wrap_socket(running.socket, server_side=True)
    server = Server(f"http{'s' if authority else ''}://127.0.0.1:{running.server_port}")
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def file(data: bytes, *, cut: int = 0, tag: str | None = "", **headers: str) -> Answer:
    """Return the answer of a server of files.

    Args:
        data: the file.
        cut: bytes after which each connection ends; 0 for the whole file.
        tag: the version's name; made of the content where it is empty, and left out for None.
        headers: more of them, or others, with ``_`` for ``-``.
    """
    name = tag if tag != "" else f'"{hashlib.sha256(data).hexdigest()}"'

    def answer(handler: Handler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        is_part = asked is not None and handler.headers.get("If-Range") == name
        start = int(asked[1]) if is_part and asked else 0
        stated = {"Content-Length": str(len(data) - start)} | ({"ETag": name} if name else {})
        stated |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if is_part else {}
        send(handler, 206 if is_part else 200, stated | {key.replace("_", "-"): each for key, each in headers.items()})
        handler.wfile.write(data[start : start + cut] if cut else data[start:])

    return answer


def status(code: int, **headers: str) -> Answer:
    """Return an answer without a body."""
    return lambda handler: send(handler, code, {"Content-Length": "0"} | headers)


def send(handler: Handler, code: int, headers: dict[str, str]) -> None:
    """Send the head of an answer."""
    handler.send_response(code)
    for name, value in headers.items():
        if value:
            handler.send_header(name, value)
    handler.end_headers()


def trust(authority: trustme.CA, folder: Path) -> Path:
    """Write the authority's certificate, for ``SSL_CERT_FILE``."""
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path
