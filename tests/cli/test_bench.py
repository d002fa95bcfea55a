"""`mpt-edge bench`: the metrics it reports, and their relations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mpt_edge.formats.bundle import Bundle
from tests.support import commands
from tests.support.outcomes import done, refused


def test_json(tiny_bundle: Path) -> None:
    options = ("--json", "--repeats", 5, "--prompt-length", 40, "--tokens", 8)
    metrics = json.loads(done(commands.run("bench", "-b", tiny_bundle, *options)))  # its memory is a new process's
    assert (metrics["prompt_length"], metrics["tokens"], metrics["threads"]) == (40, 8, 1)
    assert metrics["model_bytes"] == sum(path.stat().st_size for path in (tiny_bundle / "onnx").iterdir())
    assert metrics["largest_task_bytes"] == max(f.stat().st_size for f in (tiny_bundle / "tasks").iterdir())
    times = [metrics[f"request_{name}_ms"] for name in ("none", "prefix", "joint")]
    assert all(time > 0 for time in times)
    assert metrics["load_ms"] > 0
    # A later switch looks up what the first selection computed.
    assert 0 < metrics["switch_us"] < 1e3 * metrics["select_ms"]
    # A joint request computes the virtual tokens too.
    assert metrics["joint_ratio"] > 1
    assert metrics["prefix_ratio"] > 0
    assert metrics["batch_mixed_ratio"] > 0
    low, high = metrics["request_prefix_spread_ms"]
    assert 0 < low <= metrics["request_prefix_ms"] <= high
    assert metrics["bulk_texts_per_second"] > 0
    assert 20 < metrics["peak_memory_mb"] < 4000


def test_table(tiny_bundle: Path) -> None:
    printed = done(commands.run_here("bench", "-b", tiny_bundle, "--repeats", 3))
    names = ("model file", "largest task file", "load", "select a task", "request, prefix", "batch of 32 tasks")
    for name in (*names, "texts of all tasks in bulk", "peak memory"):
        assert any(line.startswith(name) for line in printed.splitlines())
    length = Bundle.open(tiny_bundle).manifest.prompt_length
    assert f"one text of 16 tokens, {length} virtual tokens, float32, 1 thread(s), medians" in printed


def test_without_the_module_that_windows_lacks(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    printed = done(commands.run_here("bench", "-b", tiny_bundle, "--repeats", 3))
    assert "request, prefix" in printed
    assert "peak memory" not in printed


def test_a_generative_model(writer_bundle: Path) -> None:
    options = ["--bundle", writer_bundle, "--repeats", 3, "--new-tokens", 4, "--prompt-length", 10]
    metrics = json.loads(done(commands.run_here("bench", *options, "--json")))
    assert metrics["tokens_per_second_prefix"] > 0
    assert metrics["first_token_none_ms"] > 0
    assert metrics["prefix_ratio"] > 0
    assert metrics["model_bytes"] == sum(path.stat().st_size for path in (writer_bundle / "onnx").iterdir())
    assert "cost of the prompt" in done(commands.run_here("bench", *options))
    assert "lower --tokens" in refused(commands.run_here("bench", "--bundle", writer_bundle, "--tokens", 5000))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bundle", "no-such"], "no bundle in no-such; build it with"),
        (["--tokens", "60"], "60 tokens are more than the 48 that this backbone reads; lower --tokens."),
        (["--threads", "5000"], "5000 threads are not possible here"),
    ],
)
def test_bad_input(tiny_bundle: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    result = commands.run_here("bench", "--bundle", tiny_bundle, *arguments, cwd=tmp_path)
    assert says in refused(result)
