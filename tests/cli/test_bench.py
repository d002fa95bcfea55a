"""`mpt-edge bench`: the figures it reports and how they hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import commands


def test_json(tiny_bundle: Path) -> None:
    result = commands.run("bench", "-b", tiny_bundle, "--json", "--repeats", 5, "--length", 40, "--tokens", 8)
    assert (result.returncode, result.stderr) == (0, "")
    figures = json.loads(result.stdout)
    assert (figures["prompt_rows"], figures["tokens"], figures["threads"]) == (40, 8, 1)
    assert figures["model_bytes"] == sum(path.stat().st_size for path in (tiny_bundle / "onnx").iterdir())
    assert figures["largest_task_bytes"] == max(f.stat().st_size for f in (tiny_bundle / "tasks").iterdir())
    times = [figures[f"request_{name}_ms"] for name in ("none", "prefix", "joint")]
    assert all(time > 0 for time in times)
    assert figures["load_ms"] > 0
    # A later switch looks up what the first selection computed.
    assert 0 < figures["switch_us"] < 1e3 * figures["select_ms"]
    # The prompt's rows cost a joint request their own share of the work.
    assert figures["joint_ratio"] > 1
    assert figures["prefix_ratio"] > 0
    assert 20 < figures["peak_memory_mb"] < 4000


def test_table(tiny_bundle: Path) -> None:
    result = commands.run("bench", "-b", tiny_bundle, "--repeats", 3)
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("model file", "largest task file", "load", "select a task", "request, prefix", "peak memory"):
        assert any(line.startswith(name) for line in result.stdout.splitlines())
    assert "one text of 16 tokens, 100 prompt rows, float32, 1 thread(s), medians" in result.stdout


def test_without_the_module_that_windows_lacks(tiny_bundle: Path) -> None:
    script = (
        "import sys; sys.modules['resource'] = None; from mpt_edge.cli import main; "
        f"sys.argv = ['mpt-edge', 'bench', '-b', {str(tiny_bundle)!r}, '--repeats', '3']; main()"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "request, prefix" in result.stdout
    assert "peak memory" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bundle", "no-such"], "no bundle in no-such; build it with"),
        (["--tokens", "60"], "60 tokens are more than the 48 that this backbone reads; lower --tokens."),
        (["--threads", "5000"], "5000 threads are not possible here"),
    ],
)
def test_bad_input(tiny_bundle: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    result = commands.run("bench", "--bundle", tiny_bundle, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("mpt-edge: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
