"""`mpt-edge bench`: size, latency and memory of a bundle on this machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer

from mpt_edge._console import PlainConsole, PlainTable
from mpt_edge.cli.options import BundleFolder, PrecisionOption
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.generative_model import GenerativeModel
from mpt_edge.inference.loading import default_bundle, open_model
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.decoding import OnnxGenerator
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.kv_cache import stack
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.text import Batch

EPILOG = """
Examples:

mpt-edge bench

mpt-edge bench --bundle bundles/app --tokens 64 --threads 2 --json

Calls are timed in turn, in one run. Run nothing else meanwhile: a busy machine makes times and ratios unsteady.
"""

#: Virtual tokens where a bundle has no prompt.
_LENGTH = 8

#: Rows of a batch, and of a list.
_ROWS, _BULK = 32, 256

_REQUESTS = {
    "none": "request, no prompt",
    "prefix": "request, prefix",
    "joint": "request, joint",
    "batch_none": f"batch of {_ROWS}, no prompt",
    "batch_mixed": f"batch of {_ROWS} tasks",
}


def bench(
    bundle: BundleFolder = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the text, in tokens.")] = 16,
    length: Annotated[
        int | None,
        typer.Option(
            "--prompt-length",
            "-l",
            min=1,
            help="Virtual tokens of the random prompt that is timed.",
            show_default="the bundle's, else 8",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one request.")] = 1,
    precision: PrecisionOption = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate, for generative models.")] = 32,
    repeats: Annotated[int, typer.Option(min=3, help="Timed runs of each call; the median is reported.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the size, latency and memory of a bundle on this machine."""
    opened = Bundle.open(bundle or default_bundle())
    length = length or opened.manifest.prompt_length or _LENGTH
    _check_room(opened, tokens, length, new_tokens)
    started = time.perf_counter()
    model = open_model(opened, precision=precision, options=SessionOptions(threads=threads))
    metrics: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, ONNX Runtime {onnxruntime.__version__}",
        "threads": threads,
        "precision": opened.choose_precision(precision),
        "tokens": tokens,
        "prompt_length": length,
        "load_ms": 1e3 * (time.perf_counter() - started),
        "model_bytes": sum(opened.manifest.files[name]["size"] for name in opened.graph_files(precision)),
        "largest_task_bytes": max(map(opened.task_bytes, opened.task_names), default=0),
    }
    metrics |= _selection(model, opened)
    if isinstance(model, GenerativeModel):
        metrics |= {"new_tokens": new_tokens} | _generation(model.backbone, tokens, length, new_tokens, repeats)
    elif isinstance(model, EncoderModel):
        metrics |= _requests(model.backbone, tokens, length, repeats) | _bulk(model, repeats)
    metrics |= _peak_memory()
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        _print(metrics)


def _check_room(opened: Bundle, tokens: int, length: int, new_tokens: int) -> None:
    """Refuse sizes beyond the backbone's limits. Raises InputError."""
    generation, limit = opened.manifest.generation, opened.manifest.max_length
    if generation is None and tokens > limit:
        raise InputError(f"{tokens} tokens are more than the {limit} that this backbone reads; lower --tokens.")
    if generation is not None and tokens + length + new_tokens > generation.context:
        raise InputError(
            f"{tokens} tokens, {length} virtual tokens and {new_tokens} new tokens do not fit into the "
            f"{generation.context} that this backbone reads; lower --tokens, --prompt-length or --new-tokens."
        )


def _selection(model: Model, bundle: Bundle) -> dict[str, float]:
    """Time the first selection of each task (compose, encode, embed labels) and a later switch."""
    if not bundle.task_names:
        return {}
    first = [_seconds(lambda name=name: model.task(name)) for name in bundle.task_names]  # type: ignore[misc]
    again = [_seconds(lambda name=name: model.task(name)) for name in bundle.task_names * 20]  # type: ignore[misc]
    return {
        "select_ms": 1e3 * median(first),
        "switch_us": 1e6 * median(again),
        "cached_tasks": len(model.cached_tasks),
        "cache_bytes": model.cache_bytes,
    }


def _requests(backbone: OnnxEncoder, tokens: int, length: int, repeats: int) -> dict[str, Any]:
    """Time one text without a prompt, under a cached prompt and with a joint prompt, and a mixed batch, in turn."""
    rng = np.random.default_rng(0)
    prompt = rng.standard_normal(backbone.prompt_shape(length)).astype(np.float32)
    one, many = (rng.integers(0, 100, (rows, tokens)) for rows in (1, _ROWS))  # every vocabulary has these ids
    batch, mixed = (Batch(ids, np.ones_like(ids), np.zeros_like(ids)) for ids in (one, many))
    cache = backbone.encode_prompt(prompt)
    caches = [dict(cache) for _ in range(_ROWS)]  # of as many tasks
    calls: dict[str, Callable[[], object]] = {
        "none": lambda: backbone.request(batch),
        "prefix": lambda: backbone.request(batch, cache),
        "batch_none": lambda: backbone.request(mixed),
        "batch_mixed": lambda: backbone.request(mixed, stack(caches)[0]),
    }
    if prompt.ndim == 2:  # a prompt for all layers has no joint layout
        calls["joint"] = lambda: backbone.joint_request(batch, prompt)
    for call in calls.values():
        for _ in range(3):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call))
    bases = {"prefix": "none", "joint": "none", "batch_mixed": "batch_none"}
    ratios = {
        name: median(a / b for a, b in zip(times[name], times[base], strict=True))
        for name, base in bases.items()
        if name in times
    }
    return (
        {f"request_{name}_ms": 1e3 * median(values) for name, values in times.items()}
        | {f"request_{name}_spread_ms": _spread(values) for name, values in times.items()}
        | {f"{name}_ratio": ratio for name, ratio in ratios.items()}
    )


def _spread(seconds: list[float]) -> list[float]:
    """Return the tenth and the ninetieth percentile, in milliseconds."""
    return [float(1e3 * value) for value in np.percentile(seconds, [10, 90])]


def _bulk(model: EncoderModel, repeats: int) -> dict[str, Any]:
    """Time a list of the tasks' reference examples, or else their names, under their tasks at random."""
    rng = np.random.default_rng(0)
    files = [model.bundle.task(name) for name in model.bundle.task_names]
    pairs = [(file.name, file.reference_example.get("text", _named(file))) for file in files]
    if not pairs:
        return {}
    chosen = [pairs[i] for i in rng.integers(0, len(pairs), _BULK)]
    names, texts = [name for name, _ in chosen], [text if isinstance(text, str) else tuple(text) for _, text in chosen]
    rates = [_BULK / _seconds(lambda: model.run(texts, names)) for _ in range(min(repeats, 5))]
    return {"bulk_texts_per_second": median(rates)}


def _named(file: TaskFile) -> str | list[str]:
    return [file.name, file.name] if file.inputs is Inputs.PAIR else file.name


def _generation(backbone: OnnxGenerator, tokens: int, length: int, new_tokens: int, repeats: int) -> dict[str, float]:
    """Time the first token and the following ones, without a prompt and under a cached one, in turn."""
    rng = np.random.default_rng(0)
    prompt = 0.1 * rng.standard_normal(backbone.prompt_shape(length)).astype(np.float32)
    ids = rng.integers(0, 100, (1, tokens))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    caches = {"none": backbone.no_past, "prefix": backbone.encode_prompt(prompt)}
    first: dict[str, list[float]] = {name: [] for name in caches}
    later: dict[str, list[float]] = {name: [] for name in caches}
    for number in range(repeats + 3):  # the first three warm up
        for name, cache in caches.items():
            started = time.perf_counter()
            decoding, logits = backbone.open(batch, [cache])
            opened = time.perf_counter()
            for _ in range(new_tokens - 1):
                logits = decoding.step(logits.argmax(-1))
            if number >= 3:
                first[name].append(opened - started)
                later[name].append((time.perf_counter() - opened) / max(1, new_tokens - 1))
    whole = {name: [a + b * (new_tokens - 1) for a, b in zip(first[name], later[name], strict=True)] for name in caches}
    return {
        **{f"first_token_{name}_ms": 1e3 * median(values) for name, values in first.items()},
        **{f"tokens_per_second_{name}": 1 / median(values) for name, values in later.items() if new_tokens > 1},
        "prefix_ratio": median(a / b for a, b in zip(whole["prefix"], whole["none"], strict=True)),
    }


def _peak_memory() -> dict[str, float]:
    """Return the peak memory of this process; nothing on systems that do not report it, such as Windows."""
    try:
        import resource
    except ImportError:
        return {}
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory_mb": peak / (1e6 if sys.platform == "darwin" else 1e3)}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _print(metrics: dict[str, Any]) -> None:
    table = PlainTable(show_header=False)
    table.row("model file", f"{metrics['model_bytes'] / 1e6:.1f} MB")
    table.row("largest task file", f"{metrics['largest_task_bytes']:,} bytes")
    table.row("load", f"{metrics['load_ms']:.0f} ms")
    if "select_ms" in metrics:
        table.row("select a task, first time", f"{metrics['select_ms']:.1f} ms")
        kept = f"{metrics['cached_tasks']} in {metrics['cache_bytes'] / 1e6:.1f} MB"
        table.row("selected tasks that are kept", kept)
        table.row("switch to a selected task", f"{metrics['switch_us']:.1f} µs")
    for name, words in _REQUESTS.items():
        if f"request_{name}_ms" in metrics:
            low, high = metrics[f"request_{name}_spread_ms"]
            ratio = f", {metrics[f'{name}_ratio']:.2f} x" if f"{name}_ratio" in metrics else ""
            table.row(words, f"{metrics[f'request_{name}_ms']:.2f} ms  ({low:.2f} to {high:.2f}{ratio})")
    if "bulk_texts_per_second" in metrics:
        table.row("texts of all tasks in bulk", f"{metrics['bulk_texts_per_second']:.0f} a second")
    for name, words in (("none", "no prompt"), ("prefix", "with its prompt")):
        if f"first_token_{name}_ms" in metrics:
            table.row(f"first token, {words}", f"{metrics[f'first_token_{name}_ms']:.2f} ms")
        if f"tokens_per_second_{name}" in metrics:
            table.row(f"further tokens, {words}", f"{metrics[f'tokens_per_second_{name}']:.0f} a second")
    if "new_tokens" in metrics:
        table.row("cost of the prompt", f"{metrics['prefix_ratio']:.2f} x for {metrics['new_tokens']} tokens")
    if "peak_memory_mb" in metrics:
        table.row("peak memory", f"{metrics['peak_memory_mb']:.0f} MB")
    console = PlainConsole()
    console.print(table)
    console.print(
        f"one text of {metrics['tokens']} tokens, {metrics['prompt_length']} virtual tokens, "
        f"{metrics['precision']}, {metrics['threads']} thread(s), medians (and tenth to ninetieth percentile); "
        f"{metrics['machine']}",
        soft_wrap=True,
    )
