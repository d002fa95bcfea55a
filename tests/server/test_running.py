"""A real server in a process of its own: its address, its limits, its signals and its end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.server import running
from mpt_edge.server.running import Address
from tests.support.http import Server, served, until

PROMPT = {"model": "story", "prompt": "Tom had a red ball.", "max_tokens": 80}


@pytest.fixture
def server(writer_bundle: Path) -> Iterator[Server]:
    with served(writer_bundle, "--threads", 1) as started:
        yield started


def test_a_signal_lets_accepted_requests_finish_and_refuses_new_ones(server: Server) -> None:
    host = server.host
    kept = http.client.HTTPConnection(host)
    kept.request("GET", "/health")
    assert kept.getresponse().read() == b'{"status":"ready"}'
    streaming = http.client.HTTPConnection(host)
    streaming.request("POST", "/v1/completions", json.dumps(PROMPT | {"stream": True}))
    reply = streaming.getresponse()
    first = reply.readline()
    bodies: list[bytes] = []
    half = socket.create_connection(host.split(":"))
    half.sendall(b"POST /predict?task=mood HTTP/1.1\r\nhost: localhost\r\ncontent-length: 21\r\n\r\n")
    time.sleep(0.05)  # its headers are read
    server.process.send_signal(signal.SIGTERM)
    reader = threading.Thread(target=lambda: bodies.append(reply.read()))
    reader.start()

    def is_refused() -> bool:
        kept.request("GET", "/health")
        answer = kept.getresponse()
        answer.read()
        return answer.status == 503

    until(is_refused)
    half.sendall(b'{"inputs": "The cat"}')
    assert half.recv(1000).startswith(b"HTTP/1.1 200")
    reader.join()
    assert first.startswith(b"data: ")
    assert bodies[0].endswith(b"data: [DONE]\n\n")
    assert server.process.wait(20) == 0
    assert server.process.stderr.read() == ""


def test_a_second_signal_ends_at_once(server: Server) -> None:
    half = socket.create_connection(server.host.split(":"))
    half.sendall(b"POST /predict?task=mood HTTP/1.1\r\nhost: localhost\r\ncontent-length: 21\r\n\r\n")
    time.sleep(0.05)
    server.process.send_signal(signal.SIGINT)
    until(lambda: server.fetch("/health").status == 503)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_free_port_and_names_of_this_machine(host: str) -> None:
    try:
        listener = running._listen(Address(host=host, port=0))
    except InputError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        names = running._names(listener.getsockname()[0], Address(host=host, names=["my.example"]))
        assert {"localhost", "127.0.0.1", "[::1]", "my.example"} <= set(names)


def test_a_network_address_has_any_name_unless_some_are_given() -> None:
    assert running._names("0.0.0.0", Address(host="0.0.0.0")) is None
    assert "my.example" in running._names("0.0.0.0", Address(host="0.0.0.0", names=["my.example"]))
    assert [running.is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "my.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_an_address_that_is_taken_or_none() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(InputError, match="--port 0 for a free one"):
        running._listen(Address(port=taken.getsockname()[1]))
    with pytest.raises(InputError, match=r"cannot listen on 256\.1\.1\.1"):
        running._listen(Address(host="256.1.1.1"))
