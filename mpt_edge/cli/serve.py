"""`mpt-edge serve`: a bundle over HTTP."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import mpt_edge
from mpt_edge._escapes import one_line
from mpt_edge._extras import require
from mpt_edge.cli.options import BundleFolder, DigestOption, PrecisionOption, Threads
from mpt_edge.cli.output import note
from mpt_edge.errors import InputError
from mpt_edge.inference.loading import default_bundle

EPILOG = """
Examples:

mpt-edge serve

curl "http://127.0.0.1:8080/predict?task=sst2" --data '{"inputs": "a gorgeous, witty film"}'

mpt-edge serve --host 0.0.0.0 --api-key-file keys.txt

The first Ctrl-C or SIGTERM lets accepted requests finish; a second one ends at once.
"""


def serve(
    bundle: BundleFolder = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name in the Host header, such as a proxy's; repeatable.", show_default=False),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with an API key on each line; 'admin:' begins one that may change tasks."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1024, help="Maximum size of a request's body, in bytes.")] = 2 << 20,
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum texts of a request.")] = 256,
    max_queue: Annotated[int, typer.Option(min=1, help="Maximum texts that wait, of all requests.")] = 1024,
    max_streams: Annotated[int, typer.Option(min=1, help="Texts that are streamed at once; others wait.")] = 4,
    max_connections: Annotated[int, typer.Option(min=1, help="Maximum open connections.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum texts in one run of the model.")] = 32,
    workers: Annotated[
        int, typer.Option(min=1, help="Batches that run at once; with two, --threads should be half of the cores.")
    ] = 1,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens in one run of the model.")] = 4096,
    max_delay_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="Time that requests wait for others; one alone never waits.")
    ] = 2.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for accepted requests after SIGTERM.")] = 30.0,
    threads: Threads = None,
    precision: PrecisionOption = None,
    digest: DigestOption = None,
) -> None:
    """Answer texts over HTTP: Text Embeddings Inference, OpenAI, and the Open Inference Protocol."""
    require("server", "fastapi", "uvicorn", "prometheus_client")
    from mpt_edge.server import running
    from mpt_edge.server.keys import Keys
    from mpt_edge.server.limits import Limits

    if max_texts > max_queue:
        raise InputError(f"{max_texts} texts of a request do not fit into a queue of {max_queue}; raise --max-queue.")
    limits = Limits(
        body_bytes=max_body, texts=max_texts, queue=max_queue, streams=max_streams, connections=max_connections,
        batch_texts=batch_size, workers=workers, batch_tokens=batch_tokens, max_delay=max_delay_ms / 1000,
    )  # fmt: skip
    keys = Keys.read(api_key_file) if api_key_file is not None else Keys()
    if not keys.hashes and not running.is_loopback(host):
        note(f"there is no key: whoever reaches {host} may use this server; see --api-key-file.")
    load = partial(mpt_edge.load, bundle or default_bundle(), precision=precision, threads=threads, digest=digest)
    address = running.Address(host=host, port=port, names=allowed_host or ())
    running.serve(load, address, limits=limits, keys=keys, grace=grace, announce=_announce)


def _announce(message: str) -> None:
    typer.echo(one_line(message))
