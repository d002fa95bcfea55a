"""Load on `mpt-edge serve`: throughput, latency, overhead of HTTP, memory, and overload.

python benchmarks/server.py

Needs wrk (`apt install wrk`). A load generator in Python takes as much of two cores as the server does; wrk takes a
few percent of one. `--seconds 2 --memory-seconds 4` shows that it works, in half a minute. Use a quiet machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

import mpt_edge
from mpt_edge.inference.model import Model

ROOT = Path(__file__).resolve().parents[1]

#: Texts: short messages of the repository's own data set.
DATA = ROOT / "data" / "support" / "train.jsonl"

_LOAD = Path(__file__).with_name("server_load.lua")

Pair = tuple[str, str]


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    host: str

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1e3

    def post(self, path: str, body: bytes) -> int:
        """Send a request on a new connection, and return the status."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", path, body)
            return connection.getresponse().status


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle.")] = ROOT / "models" / "minilm-l6",
    clients: Annotated[int, typer.Option(help="Clients at once.")] = 64,
    seconds: Annotated[float, typer.Option(help="Seconds of each load.")] = 20,
    memory_seconds: Annotated[float, typer.Option(help="Seconds for which memory is watched.")] = 600,
    texts: Annotated[int, typer.Option(help="Texts of the comparison in Python.")] = 2048,
    workers: Annotated[int, typer.Option(help="Batches that the server runs at once.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each, and of a call in Python.")] = None,
) -> None:
    """Measure a bundle's server on this machine."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; run: apt install wrk")
    pairs = _pairs(mpt_edge.load(bundle).tasks, texts)
    python = json.loads(subprocess.check_output([sys.executable, __file__, "--python", str(bundle), str(texts)]))
    print(f"Model.run in bulk: {python['bulk']:.0f} texts/s; one at a time: {python['single']:.0f} texts/s", flush=True)
    options = ["--workers", str(workers), *([] if threads is None else ["--threads", str(threads)])]
    with _served(bundle, *options) as server, _requests(pairs) as file:
        for task in sorted({task for _, task in pairs}):
            server.post(f"/predict?task={task}", b'{"inputs": "a text"}')  # selects it
        full = _wrk(server, file, clients, seconds)
        rate = full["requests"] / full["seconds"]
        print(
            f"{clients} clients: {rate:.0f} texts/s, {rate / python['bulk']:.2f} of bulk, "
            f"{rate / python['single']:.1f} times one at a time, p99 {full['p99_ms']:.0f} ms", flush=True,
        )  # fmt: skip
        _print_half_load(server, file, clients, seconds, rate)
        _print_overhead(server, bundle, pairs, threads)
        _print_memory(server, file, clients, memory_seconds)
    _print_overload(bundle, pairs)


def _pairs(tasks: Sequence[str], count: int) -> list[Pair]:
    """Return texts and their tasks, at random but always the same."""
    lines = [json.loads(line)["text"] for line in DATA.read_text(encoding="utf-8").splitlines()]
    chosen = random.Random(0)
    return [(chosen.choice(lines), chosen.choice(tasks)) for _ in range(count)]


def _measure_python(bundle: Path, count: int) -> None:
    """Print the rates of `Model.run`, in a process of its own with the threads of the server's."""
    model = mpt_edge.load(bundle)
    pairs = _pairs(model.tasks, count)
    texts, tasks = [text for text, _ in pairs], [task for _, task in pairs]
    model.run(texts[:64], tasks[:64])
    for task in model.tasks:
        model.task(task)
    bulk = median(_seconds(model, texts, tasks) for _ in range(3))
    started = time.perf_counter()
    for text, task in pairs[:256]:
        model.run([text], task)
    print(json.dumps({"bulk": count / bulk, "single": min(count, 256) / (time.perf_counter() - started)}))


def _seconds(model: Model, texts: list[str], tasks: list[str]) -> float:
    started = time.perf_counter()
    model.run(texts, tasks)
    return time.perf_counter() - started


@contextlib.contextmanager
def _served(bundle: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "mpt_edge", "serve", "--bundle", str(bundle), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        host = process.stdout.readline().split("//")[-1].strip()
        if not process.stdout.readline().startswith("ready: "):
            sys.exit("the server did not start")
        yield Server(process, host)
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _requests(pairs: Sequence[Pair]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.tsv"
        lines = [f"/predict?task={task}\t{json.dumps({'inputs': text})}" for text, task in pairs]
        path.write_text("\n".join(lines), encoding="utf-8")
        yield path


def _wrk(server: Server, file: Path, clients: int, seconds: float, pause_ms: float = 0) -> dict[str, Any]:
    command = ["wrk", "-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(_LOAD), f"http://{server.host}", "--", str(file), str(pause_ms)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if result["refused"] or result["broken"]:
        print(f"refused: {result['refused']}, broken: {result['broken']}")
    return result


def _print_half_load(server: Server, file: Path, clients: int, seconds: float, rate: float) -> None:
    """Print the latency of clients that pause so long that they ask for half of the full rate."""
    alone = _wrk(server, file, 1, seconds)
    half = _wrk(server, file, clients, seconds, pause_ms=2e3 * clients / rate - alone["p50_ms"])
    share = half["requests"] / half["seconds"] / rate
    print(
        f"half load ({share:.2f} of the full rate): p50 {half['p50_ms']:.1f} ms, p99 {half['p99_ms']:.1f} ms, "
        f"{half['p99_ms'] / alone['p50_ms']:.1f} times one client's median {alone['p50_ms']:.1f} ms", flush=True,
    )  # fmt: skip


def _print_overhead(server: Server, bundle: Path, pairs: Sequence[Pair], threads: int | None) -> None:
    """Print the cost of HTTP for one client: requests and calls in Python, in turn."""
    model = mpt_edge.load(bundle, threads=threads)
    for task in model.tasks:
        model.task(task)
    connection = http.client.HTTPConnection(server.host)
    over_http, in_python = [], []
    for text, task in pairs[:300]:
        body = json.dumps({"inputs": text})
        started = time.perf_counter()
        connection.request("POST", f"/predict?task={task}", body)
        connection.getresponse().read()
        over_http.append(time.perf_counter() - started)
        started = time.perf_counter()
        model.run([text], task)
        in_python.append(time.perf_counter() - started)
    connection.close()
    a, b = 1e3 * median(over_http), 1e3 * median(in_python)
    print(f"one client: {a:.2f} ms over HTTP, {b:.2f} ms in Python, {a - b:.2f} ms apart (medians)", flush=True)


def _print_memory(server: Server, file: Path, clients: int, seconds: float) -> None:
    """Print the server's memory under full load, at ten moments."""
    load = threading.Thread(target=_wrk, args=(server, file, clients, seconds))
    load.start()
    sizes = []
    for _ in range(10):
        time.sleep(seconds / 10)
        sizes.append(server.memory)
    load.join()
    print(f"memory over {seconds:g} s: {' '.join(f'{size:.0f}' for size in sizes)} MB", flush=True)


def _print_overload(bundle: Path, pairs: Sequence[Pair]) -> None:
    """Print the statuses of each kind of bad client, while a good one asks on and must not notice."""
    with _served(bundle, "--max-queue", "64", "--max-texts", "64") as server:
        text, task = pairs[0]
        good = json.dumps({"inputs": text}).encode()
        server.post(f"/predict?task={task}", good)
        before, many = server.memory, json.dumps({"inputs": ["a"] * 10_000}).encode()
        kinds: dict[str, Callable[[], list[int]]] = {
            "queue full": lambda: _flood(server, task, text),
            "slow clients": lambda: _slow(server),
            "clients that leave": lambda: _leaving(server, task, text),
            "malformed body": lambda: [server.post("/predict", b'{"inputs": [')],
            "body of 100 MB": lambda: _large(server),
            "10,000 texts": lambda: [server.post(f"/predict?task={task}", many)],
        }
        for name, kind in kinds.items():
            statuses: Counter[int] = Counter()
            probe = threading.Thread(target=_probe, args=(server, task, good, statuses, ended := threading.Event()))
            probe.start()
            try:
                result = Counter(kind())
            finally:
                ended.set()
                probe.join()
            print(f"{name}: {dict(result)}; a good client meanwhile: {dict(statuses)}", flush=True)
        print(f"memory before {before:.0f} MB, after {server.memory:.0f} MB")


def _probe(server: Server, task: str, body: bytes, statuses: Counter[int], ended: threading.Event) -> None:
    while True:
        statuses[server.post(f"/predict?task={task}", body)] += 1
        if ended.wait(0.01):
            return


def _flood(server: Server, task: str, text: str) -> list[int]:
    """Send far more texts at once than may wait."""
    body, results = json.dumps({"inputs": [text] * 30}).encode(), list[int]()

    def send() -> None:
        results.append(server.post(f"/predict?task={task}", body))

    threads = [threading.Thread(target=send) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _slow(server: Server) -> list[int]:
    """Open connections that send their request byte by byte, and none to its end."""
    host, port = server.host.split(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(100)]
    for byte in b"POST /pre":
        for connection in connections:
            connection.send(bytes([byte]))
        time.sleep(0.02)
    for connection in connections:
        connection.close()
    return []


def _leaving(server: Server, task: str, text: str) -> list[int]:
    """Send whole requests and close the connection before the answer."""
    body = json.dumps({"inputs": [text] * 10}).encode()
    head = f"POST /predict?task={task} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    host, port = server.host.split(":")
    for _ in range(100):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
        time.sleep(0.01)
    return []


def _large(server: Server) -> list[int]:
    """Send 100 MB without saying so before, until the server answers."""
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(1000):
            if select.select([connection], [], [], 0)[0]:
                break
            connection.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        return [int(connection.recv(1000).split()[1])]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--python"]:
        _measure_python(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        typer.run(main)
