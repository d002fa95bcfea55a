"""An encoder beside its peers: requests of several shapes, bulk rows, many tasks, cold start, and the machine's limit.

python benchmarks/encoder.py --data DATA

Run `make demo` before, and on a quiet machine. `pip install ctranslate2` adds CTranslate2. `--parts requests` and so on
runs a part alone. Calls of a table take turns in one process; commands are timed whole, in processes of their own.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import encoder_peers
import numpy as np
import onnx
import onnxruntime
import typer
from common import timed
from encoder_peers import Peers, make_peers
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.incoming import read_incoming
from mpt_edge.formats.manifest import Precision
from mpt_edge.inference.encoder_model import EncoderModel
from mpt_edge.inference.heads.embedding import Embedding
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.encoder_backbone import load_encoder
from mpt_edge_export import ExportPlan, export_bundle

SHAPES = ((1, 16), (1, 64), (1, 256), (8, 32), (32, 16), (32, 64))
COUNTS = (1, 10, 1000, 10000)

#: Tasks of the bulk rows: those whose answers need no texts of dozens of labels.
BULK_TASKS = ("sst2", "trec", "tweet_emotion", "tweet_offensive", "tweet_sentiment", "snips")


class Part(StrEnum):
    """A table."""

    REQUESTS = "requests"
    BULK = "bulk"
    TASKS = "tasks"
    START = "start"
    LIMIT = "limit"


def main(
    data: Annotated[Path, typer.Option(help="Folder with the data sets, for bulk rows.")],
    bundle: Annotated[Path, typer.Option(help="The default bundle, as `make demo` builds it.")] = Path(
        "models/minilm-l6"
    ),
    parts: Annotated[list[Part] | None, typer.Option(help="Only these tables; repeatable.")] = None,
    length: Annotated[int | None, typer.Option(help="Virtual tokens.", show_default="the bundle's")] = None,
    repeats: Annotated[int, typer.Option(help="Timed rounds of requests; fewer for large shapes.")] = 61,
    rounds: Annotated[int, typer.Option(help="Timed rounds of whole commands.")] = 3,
    rows: Annotated[int, typer.Option(help="Bulk rows.")] = 11714,
) -> None:
    """Print the tables."""
    print(f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"ONNX Runtime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        both = place / "bundle"
        precisions = (Precision.FLOAT32, Precision.INT8)
        export_bundle(ExportPlan(load_encoder("minilm-l6"), [bundle], both, precisions=precisions))
        peers = make_peers("minilm-l6", place)
        chosen = parts or list(Part)
        if Part.REQUESTS in chosen:
            for precision in (Precision.FLOAT32, Precision.INT8):
                requests(both, peers, precision, length, repeats)
        if Part.BULK in chosen:
            bulk(both, peers, bulk_rows(data, rows), place, rounds)
        if Part.TASKS in chosen:
            many_tasks(both, place)
        if Part.START in chosen:
            cold_start(both, 5 * rounds)
        if Part.LIMIT in chosen:
            limit(place)


def requests(bundle: Path, peers: Peers, precision: Precision, length: int | None, repeats: int) -> None:
    """Time one request on one thread: ours with and without a prompt, and the peers without."""
    model = mpt_edge.load(bundle, threads=1, precision=precision)
    assert isinstance(model, EncoderModel)
    rng = np.random.default_rng(0)
    l = length or len(model.task(model.tasks[0])._selected.prompt)  # noqa: E741 - the field's name
    prompt = 0.1 * rng.standard_normal(model.manifest.prompt_shape(l)).astype(np.float32)
    cache = model.backbone.encode_prompt(prompt)
    readers = {"stock": peers.stock(precision, 1)}
    if (peers.place / "ct2-int8").is_dir():
        readers["CTranslate2"] = peers.ctranslate2(precision, 1)
    if precision is Precision.FLOAT32:
        readers["PyTorch"] = peers.torch(1)
    table = Table(f"{precision}, l = {l}", *(f"{rows}x{tokens}" for rows, tokens in SHAPES), box=None)
    seconds: dict[str, list[float]] = {}
    for rows, tokens in SHAPES:
        ids = rng.integers(1000, 20000, (rows, tokens))
        batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
        mixed = {name: np.repeat(array, rows, axis=0) for name, array in cache.items()}
        calls: dict[str, Callable[[], object]] = {
            "with prompt": partial(model.backbone.request, batch, cache),
            "mixed tasks": partial(model.backbone.request, batch, mixed),
            "no prompt": partial(model.backbone.request, batch),
        }
        calls |= {name: partial(read, ids, batch.attention_mask) for name, read in readers.items()}
        for name, value in timed(calls, max(9, repeats * 16 // (rows * tokens)), warm=2).items():
            seconds.setdefault(name, []).append(value)
    for name, values in seconds.items():
        table.add_row(f"{name}, ms", *(f"{1e3 * value:.2f}" for value in values))
    for name in list(seconds)[2:]:
        ratios = [a / b for a, b in zip(seconds["with prompt"], seconds[name], strict=True)]
        table.add_row(f"with prompt / {name}", *(f"{ratio:.2f}" for ratio in ratios))
    Console(width=120).print(table)


def bulk_rows(data: Path, count: int) -> list[dict[str, str]]:
    """Return texts of several tasks in random order, with their tasks."""
    rows = [
        {"task": task, "text": json.loads(line)["text"]}
        for task in BULK_TASKS
        for split in ("test", "validation")
        for line in (data / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    random.Random(0).shuffle(rows)
    return rows[:count]


def bulk(bundle: Path, peers: Peers, rows: Sequence[dict[str, str]], place: Path, rounds: int) -> None:
    """Time `mpt-edge run` from start to end on mixed tasks and on one, and the peers on the same texts."""
    mixed, single, texts = place / "mixed.jsonl", place / "single.jsonl", place / "texts.json"
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    single.write_text("".join(json.dumps({**row, "task": "sst2"}) + "\n" for row in rows))
    texts.write_text(json.dumps([row["text"] for row in rows]))
    kinds = ["stock", *(["ctranslate2"] if (peers.place / "ct2-int8").is_dir() else [])]
    table = Table(f"{len(rows):,} rows", "threads", "seconds", "MB", "/ stock", "/ one task", box=None)
    for precision in (Precision.FLOAT32, Precision.INT8):
        for threads in (1, 2):
            run = [sys.executable, "-m", "mpt_edge", "run", "--bundle", str(bundle), "--precision", precision]
            run += ["--threads", str(threads), "--no-progress", "--output", str(place / "answers.jsonl"), "--input"]
            commands = {"mixed tasks": [*run, str(mixed)], "one task": [*run, str(single)]}
            for kind in kinds:
                options = [kind, str(peers.place), str(peers.source), precision, str(threads), str(texts)]
                commands[kind] = [sys.executable, encoder_peers.__file__, *options]
            measured = {name: [_measured(command) for command in [line] * rounds] for name, line in commands.items()}
            seconds = {name: median(one[0] for one in values) for name, values in measured.items()}
            for name, values in measured.items():
                ratios = [f"{seconds[name] / seconds[other]:.2f}" for other in ("stock", "one task")]
                megabytes = f"{max(one[1] for one in values):.0f}"
                table.add_row(f"{name}, {precision}", str(threads), f"{seconds[name]:.1f}", megabytes, *ratios)
    Console(width=120).print(table)


def many_tasks(bundle: Path, place: Path) -> None:
    """Load bundles of up to 10,000 tasks, and send a request to each task."""
    table = Table("tasks", "load, ms", "first request of each, ms", "MB more after it", "cache, MB", box=None)
    for count in COUNTS:
        line = [sys.executable, __file__, "--tasks", str(bundle), str(place / f"tasks-{count}"), str(count)]
        result = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        table.add_row(f"{count:,}", *(f"{value:.1f}" for value in result))
    Console(width=120).print(table)


def ask_many(bundle: str, place: str, count: str) -> None:
    """Print the milliseconds to load a bundle of copies of one task, those of a request to each, and the memory."""
    copy_tasks(Path(bundle), Path(place), int(count))
    loads = []
    for _ in range(5):
        started = time.perf_counter()
        model = mpt_edge.load(place, threads=1)
        loads.append(time.perf_counter() - started)
    before = _resident()
    started = time.perf_counter()
    for name in model.tasks:
        model.task(name).embed("a fine film")
    each = (time.perf_counter() - started) / int(count)
    print(json.dumps([1e3 * median(loads), 1e3 * each, _resident() - before, model.cache_bytes / 1e6]))


def _resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def copy_tasks(bundle: Path, place: Path, count: int) -> None:
    """Make a bundle with ``count`` copies of a task, under other names; they answer with vectors and read no labels."""
    shutil.copytree(bundle, place, ignore=shutil.ignore_patterns("installed"))
    opened = Bundle.open(place)
    task = opened.task("sst2")
    files = [place.with_name(f"{place.name}-files") / f"task{i:05}.safetensors" for i in range(count)]
    files[0].parent.mkdir()
    for file in files:
        replace(task, name=file.stem, head_type=Embedding.name, labels=(), label_texts=()).save(file)
    for name in opened.task_names:
        opened.remove(name)
    opened.install_untested(*read_incoming(files))


def cold_start(bundle: Path, rounds: int) -> None:
    """Time `mpt-edge run` from its start to its end, and the import of its libraries.

    Modules are compiled in the first rounds, which do not count, as pip compiles those of a package that it installs.
    """
    run = [sys.executable, "-m", "mpt_edge", "run", "--bundle", str(bundle), "--task", "sst2", "a fine film"]
    commands = {
        "run, float32": [*run, "--precision", "float32"],
        "run, int8": [*run, "--precision", "int8"],
        "import of its libraries": [sys.executable, "-c", "import numpy, onnxruntime, tokenizers, typer"],
        "Python alone": [sys.executable, "-c", ""],
    }
    seconds = timed({name: partial(_run, line) for name, line in commands.items()}, rounds, warm=2)
    for name, value in seconds.items():
        print(f"{name}: {1e3 * value:.0f} ms")


def limit(place: Path, rows: int = 512, width: int = 384, inner: int = 1536) -> None:
    """Time the product of one layer alone, in float32 and int8, on one thread: the machine's limit for a graph."""
    rng = np.random.default_rng(0)
    weight = 0.02 * rng.standard_normal((width, inner)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", inner])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    path, small = place / "product.onnx", place / "product-int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    quantize_dynamic(path, small, per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    feeds = {"x": rng.standard_normal((rows, width)).astype(np.float32)}
    calls = {}
    for name, file in (("float32", path), ("int8", small)):
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        calls[name] = partial(session.run, None, feeds)
    for name, seconds in timed(calls, 61, warm=5).items():
        rate = 2 * rows * width * inner / seconds / 1e9
        print(f"product of {rows}x{width} and {width}x{inner}, {name}: {rate:.0f} billion operations a second")


def _measured(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # Not the usage that the system reports at the end, which counts this process's memory before the start, too.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        peak = max(peak, int(lines.get("VmHWM", "0 kB").split()[0]) * 1.024e-3)
        time.sleep(0.01)
    if process.returncode:
        raise typer.BadParameter(f"{' '.join(command)} failed")
    return time.perf_counter() - started, peak


def _run(command: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tasks"]:
        ask_many(*sys.argv[2:])
    else:
        typer.run(main)
