"""The wheel on a device: installed without extras, it runs a bundle and needs no training or export tools."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support import commands

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "onnx", "onnxscript", "optimum", "datasets", "scikit-learn", "fastapi", "uvicorn"}
UNREACHABLE = ("Could not fetch URL", "NewConnectionError", "Temporary failure in name resolution", "ConnectTimeout")


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "MPT_EDGE_BUNDLE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    arguments = list(map(str, command))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=900, check=False, cwd=cwd, env=environment)


def pip(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    result = call(sys.executable, "-m", "pip", *arguments, cwd=cwd)
    if result.returncode and any(sign in result.stderr for sign in UNREACHABLE):
        pytest.skip("pip cannot reach the package index")
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("mpt_edge-*.whl")
    return path


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` folder of a new environment that holds the wheel without extras.

    It has no pip of its own, and compiles only modules that the tests import: that saves half the time.
    """
    folder = tmp_path_factory.mktemp("device") / "venv"
    made = call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    assert made.returncode == 0, made.stderr
    pip("--python", folder, "install", "--no-compile", wheel, cwd=folder)
    return folder / "bin"


def test_wheel_holds_the_packages_and_the_shipped_vectors(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mpt_edge/cli/app.py", "mpt_edge_export/graph.py"} <= names
    assert {"mpt_edge/py.typed", "mpt_edge_export/py.typed"} <= names
    for kind in ("prompts", "tasks"):
        shipped = {path.name for path in (ROOT / "models" / "minilm-l6" / kind).glob("*.safetensors")}
        assert shipped
        assert {f"mpt_edge_export/vectors/minilm-l6/{kind}/{name}" for name in shipped} <= names
    # Optimum's own files would be overwritten by ours of the same name.
    assert [name for name in names if name.startswith("optimum/")] == ["optimum/commands/register/register_mpt_edge.py"]
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mpt_edge", "mpt_edge_export", "optimum"}


def test_source_distribution_can_run_the_tests(tmp_path: Path) -> None:
    made = call(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    if made.returncode and any(sign in made.stdout + made.stderr for sign in UNREACHABLE):
        pytest.skip("pip cannot reach the package index")
    assert made.returncode == 0, made.stderr
    (path,) = tmp_path.glob("mpt_edge-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", ".ci/run", "pyproject.toml", "tests/conftest.py"} <= names
    for folder in ("attacks", "benchmarks", "export", "mpt_edge", "tests"):
        modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / folder).rglob("*.py")}
        assert modules
        assert modules <= names


def test_nothing_heavy_is_installed(device: Path) -> None:
    lines = pip("--python", device.parent, "list", "--format", "freeze", cwd=device).stdout.lower().splitlines()
    names = {line.split("==")[0].split(" @")[0].replace("_", "-") for line in lines}
    assert {"mpt-edge", "onnxruntime", "tokenizers"} <= names
    assert not names & HEAVY


def test_import(device: Path, tmp_path: Path) -> None:
    result = call(device / "python", "-c", "import mpt_edge; print(mpt_edge.__file__)", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(str(device.parent))


def test_version(device: Path, wheel: Path, tmp_path: Path) -> None:
    result = call(device / "mpt-edge", "--version", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == wheel.name.split("-")[1]


def test_run(device: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", "--bundle", tiny_bundle, "--task", "sentiment", "a witty film")
    here = commands.run_here(*arguments)
    there = call(device / "mpt-edge", *arguments, cwd=tmp_path)
    assert (there.returncode, there.stderr) == (0, "")
    label, score, text = there.stdout.splitlines()[1].split(maxsplit=2)
    expected = here.stdout.splitlines()[1].split(maxsplit=2)
    assert [label, text] == [expected[0], "a witty film"]
    assert float(score) == pytest.approx(float(expected[1]), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["export", "minilm-l6"], "export"), (["train", "source", "r.toml", "--output", "out"], "train")],
)
def test_training_and_export_name_their_extra(device: Path, tmp_path: Path, arguments: list[str], extra: str) -> None:
    (tmp_path / "r.toml").write_text('name = "r"\ntrain = "t.jsonl"\nvalidation = "v.jsonl"\n')
    result = call(device / "mpt-edge", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    command = f"pip install 'mpt-edge[{extra}]' (in a clone: pip install '.[{extra}]')"
    assert result.stderr == f"mpt-edge: torch is not installed; run: {command}\n"


def test_wrong_usage(device: Path, tmp_path: Path) -> None:
    result = call(device / "mpt-edge", "run", "--no-such-option", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "--no-such-option" in result.stderr
