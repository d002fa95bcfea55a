"""No telemetry, no network, no file outside the bundle and the output; and processes may fork."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: System calls that reach the network, or that create, change or remove a file.
_CALLS = (
    "socket,connect,sendto,sendmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,symlink"
)

_CHANGES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|^\d+ +(creat|mkdir|rename|unlink|symlink)")

LOAD = """
import os, sys
import mpt_edge
model = mpt_edge.load(sys.argv[1], threads=1)
for i in range(1000):
    model.task("topic")(f"vote law party {i}")
import pathlib
links = [os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if path.is_symlink()]
assert links and not any(link.startswith("socket") for link in links), links
"""

FORK = """
import os, sys
import mpt_edge
when, threads = sys.argv[2], None if sys.argv[3] == "None" else int(sys.argv[3])
texts = ["vote law party atom cell star text"] * 64
if when == "before":
    model = mpt_edge.load(sys.argv[1], threads=threads)
    expected = model.task("topic")(texts)
child = os.fork()
if child == 0:
    if when == "after":
        model = mpt_edge.load(sys.argv[1], threads=threads)
        expected = model.task("topic")(texts)
    assert model.task("topic")(texts) == expected
    sys.exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def environment(home: Path) -> dict[str, str]:
    """An empty home, and no switch: ONNX Runtime sends nothing where a variable names a build service."""
    kept = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
    return {key: os.environ[key] for key in kept if key in os.environ} | {
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("mpt-edge")), *map(str, arguments)]


def outside(trace: Path, allowed: Path) -> Iterator[str]:
    """Yield traced calls that reach the network or change a file outside a folder."""
    for line in trace.read_text("utf-8", "replace").splitlines():
        if "ENOENT" in line or "EEXIST" in line:
            continue
        is_network = re.match(r"^\d+ +(socket|connect|send)", line)
        paths = re.findall(r'"([^"]*)"', line)
        is_change = _CHANGES.search(line) and not all(
            path.startswith((str(allowed), "/dev/", "/proc/")) for path in paths
        )
        if is_network or is_change:
            yield line


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


Run = Callable[[list[str]], None]


@pytest.fixture
def traced(tmp_path: Path, home: Path) -> Run:
    """Return a function that runs a command and fails on any call that it may not make."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")

    def run(arguments: list[str]) -> None:
        trace = tmp_path / "trace.txt"
        tracer = ["strace", "-f", "-qq", "-e", f"trace={_CALLS}", "-o", str(trace)]
        done = subprocess.run(
            [*tracer, *arguments], env=environment(home), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert len(trace.read_text("utf-8", "replace").splitlines()) > 100  # the tracer has seen the process
        assert not list(outside(trace, tmp_path / "allowed"))
        assert not list(home.rglob("*"))

    return run


def test_the_check_sees_what_onnx_runtime_does_by_itself(tmp_path: Path, home: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace = tmp_path / "trace.txt"
    tracer = ["strace", "-f", "-qq", "-e", f"trace={_CALLS}", "-o", str(trace)]
    alone = [sys.executable, "-c", "import onnxruntime"]
    subprocess.run([*tracer, *alone], env=environment(home), capture_output=True, timeout=300, check=True)
    assert any(str(home) in line for line in outside(trace, tmp_path / "allowed"))


def test_requests(traced: Run, tiny_bundle: Path) -> None:
    traced([sys.executable, "-c", LOAD, str(tiny_bundle)])


def test_requests_without_a_tracer(tiny_bundle: Path, home: Path) -> None:
    """Where there is no tracer, an empty home and no open socket are checked all the same."""
    arguments = [sys.executable, "-c", LOAD, str(tiny_bundle)]
    done = subprocess.run(arguments, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not list(home.rglob("*"))


def test_commands(traced: Run, tiny_bundle: Path, task_file: Callable[..., Path], tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    bundle = Path(shutil.copytree(tiny_bundle, allowed / "bundle"))
    (allowed / "texts.txt").write_text("a witty film\ndull\n")
    answers = allowed / "answers.jsonl"
    run = command("run", "--task", "sentiment", "--input", allowed / "texts.txt", "--output", answers)
    traced([*run, "--bundle", str(bundle)])
    assert len(answers.read_text().splitlines()) == 2
    traced(command("tasks", "install", task_file(), "--bundle", bundle))
    traced(command("tasks", "verify", "--bundle", bundle))
    traced(command("bench", "--bundle", bundle, "--tokens", 8, "--prompt-length", 6, "--repeats", 3))


#: The exporter and the benchmarks that reach ONNX Runtime by ways of their own.
OTHERS = {
    "exporter": "from mpt_edge_export.quantize import quantize",
    "imports are timed": "import import_time; import_time.RUNS = 1; import_time.main()",
    "generation is timed": "import generation",
}


@pytest.mark.parametrize("name", OTHERS)
def test_exporter_and_benchmarks(home: Path, name: str) -> None:
    environ = environment(home) | {"PYTHONPATH": str(Path(__file__).parents[3] / "benchmarks")}
    arguments = [sys.executable, "-c", OTHERS[name]]
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(home.rglob("*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2, None])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_loaded_before_or_after_a_fork_answers(tiny_bundle: Path, when: str, threads: int | None) -> None:
    arguments = [sys.executable, "-c", FORK, str(tiny_bundle), when, str(threads)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
