"""A bundle made of a GGUF file, under a task's prompt, beside llama.cpp on the file itself and transformers.

python benchmarks/generation_gguf.py MODEL.gguf models/smollm2-135m --task nl2bash --threads 1

All generate the same number of tokens greedily after the same text, in turn, on the same threads. llama.cpp
(`pip install llama-cpp-python`, which compiles) computes with the file's own weights and reads no prompt; transformers
expands them to float32, as an export does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from generation import ours
from generation_peers import Writer, transformers_writer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from turns import price, time_all

import mpt_edge
from mpt_edge import Generation
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import Precision
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.session import SessionOptions

#: The text that all continue, inside the task's chat.
TEXT = "find all files below the current folder that are larger than 10 MB"

_PEAK = "\nprint(1024 * int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]))"

#: Programs that write some tokens, to measure their memory.
OURS = """
import mpt_edge
task = mpt_edge.load({bundle!r}, precision={precision!r}, threads=1).task({task!r})
task({text!r}, max_new_tokens={count}, min_new_tokens={count})
"""
THEIRS = """
from llama_cpp import Llama
model = Llama({gguf!r}, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
model.eval({ids!r})
for _ in range({count} - 1):
    model.eval([model.sample(temp=0.0)])
"""


def main(
    gguf: Annotated[Path, typer.Argument(help="The model's file.")],
    bundle: Annotated[Path, typer.Argument(help="A bundle made of it.")],
    task: Annotated[str, typer.Option(help="Task of the bundle whose prompt is read.")],
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; they take turns.")] = 5,
    threads: int = 2,
) -> None:
    """Print medians: time to the first token, tokens a second over the whole text, and memory."""
    torch.set_num_threads(threads)
    opened, model = Bundle.open(bundle), mpt_edge.load(bundle)
    prompt = model.task(task, Generation).prompt
    (request,) = model.prepare([TEXT], task)
    assert isinstance(request, Request)
    ids = list(request.row.ids)
    ways: dict[str, Writer] = {}
    for precision in opened.precisions:
        (path,) = opened.graphs(precision)
        graph = OnnxCausal(path, opened.manifest, SessionOptions(threads=threads))
        ways |= _ours(graph, precision, ids, prompt)
    peer = llama_cpp_writer(gguf, ids, threads)
    ways |= {"llama.cpp, no prompt": peer} if peer else {}
    ways["transformers, no prompt"] = _transformers(gguf, ids)
    speeds = time_all(ways, new_tokens, repeats)
    table = Table("", "first token (ms)", "tokens a second", "peak memory (MB)", box=None, pad_edge=False)
    facts = {"bundle": str(bundle), "task": task, "text": TEXT, "count": new_tokens, "gguf": str(gguf), "ids": ids}
    for name, (first, speed) in speeds.items():
        table.add_row(name, f"{first:.1f}", f"{speed:.0f}", _memory(name, facts))
    Console(width=120).print(table)
    for precision in opened.precisions:
        pair = (ways[f"{precision}, prompt"], ways[f"{precision}, no prompt"])
        print(f"{precision}: {price(*pair, new_tokens, repeats):.3f} times as long under the prompt as without")
    print(
        f"{len(ids)} tokens of text, {new_tokens} new ones, l = {len(prompt)}, {threads} threads, medians of {repeats}"
    )


def _ours(graph: OnnxCausal, precision: Precision, ids: list[int], prompt: np.ndarray) -> dict[str, Writer]:
    cache = graph.encode_prompt(prompt)  # once, when a task is selected
    return {
        f"{precision}, prompt": lambda count: ours(graph, ids, cache, count),
        f"{precision}, no prompt": lambda count: ours(graph, ids, graph.no_past, count),
    }


def llama_cpp_writer(path: Path, ids: list[int], threads: int) -> Writer | None:
    """Generate with llama.cpp; None where it is not installed."""
    try:
        from llama_cpp import Llama  # an optional peer
    except ImportError:
        print("no llama.cpp; pip install llama-cpp-python")
        return None
    model = Llama(str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(count: int) -> list[int]:
        model.reset()  # so that no turn finds the text in the cache
        model.eval(ids)
        tokens = [int(model.sample(temp=0.0))]
        while len(tokens) < count:
            model.eval(tokens[-1:])
            tokens.append(int(model.sample(temp=0.0)))
        return tokens

    return write


def _transformers(path: Path, ids: list[int]) -> Writer:
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    return transformers_writer(model, model.get_input_embeddings()(torch.tensor(ids)).detach()[None])


def _memory(name: str, facts: dict[str, object]) -> str:
    """Return the peak memory of a process that does nothing else, in MB; ``-`` where it is not measured."""
    way, _, kind = name.partition(", ")
    if way == "llama.cpp":
        program = THEIRS.format(**facts)
    elif kind == "prompt":
        program = OURS.format(precision=way, **facts)
    else:
        return "-"
    done = subprocess.run([sys.executable, "-c", program + _PEAK], check=True, capture_output=True, text=True)
    return f"{int(done.stdout.split()[-1]) / 1e6:.0f}"


if __name__ == "__main__":
    typer.run(main)
