"""Imports run one way: cli -> export -> training -> device side, and the device side needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mpt_edge"
WORKSHOP = ("torch", "transformers", "onnx", "optimum")
ABOVE_DEVICE = (*WORKSHOP, "mpt_edge.training", "mpt_edge.cli", "mpt_edge_export")


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a module imports, wherever in it the import stands."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                texts = (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
                yield from ((node.lineno, text) for text in texts)


def forbidden(source: str, module: str, walls: tuple[str, ...], is_package: bool = False) -> list[str]:
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(source, module, is_package)
        if any(name == wall or name.startswith(f"{wall}.") for wall in walls)
    ]


def offences(files: list[Path], root: Path, walls: tuple[str, ...]) -> list[str]:
    found = []
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += forbidden(file.read_text(encoding="utf-8"), module, walls, is_package)
    return found


def device_files() -> list[Path]:
    above = (PACKAGE / "training", PACKAGE / "cli")
    command = PACKAGE / "__main__.py"  # the command under another name
    return sorted(f for f in PACKAGE.rglob("*.py") if f != command and not any(folder in f.parents for folder in above))


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import torch", "torch"),
        ("import torch.nn as nn", "torch.nn"),
        ("import numpy, onnx", "onnx"),
        ("from transformers import AutoModel", "transformers.AutoModel"),
        ("def f():\n    if True:\n        from torch import nn", "torch.nn"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import optimum", "optimum"),
        ("from mpt_edge import training", "mpt_edge.training"),
        ("from . import cli", "mpt_edge.cli"),
        ("from .training.data import rows", "mpt_edge.training.data.rows"),
        ("import importlib\nimportlib.import_module('mpt_edge_export.bundle')", "mpt_edge_export.bundle"),
        ("__import__('torch')", "torch"),
    ],
)
def test_the_check_sees_every_way_to_import(source: str, seen: str) -> None:
    line = len(source.splitlines())
    assert forbidden(source, "mpt_edge.inference.model", ABOVE_DEVICE) == [
        f"mpt_edge.inference.model:{line} imports {seen}"
    ]


def test_relative_imports_of_a_package_and_of_a_module() -> None:
    assert list(imports("from . import x", "a.b", is_package=True)) == [(1, "a.b.x")]
    assert list(imports("from . import x", "a.b")) == [(1, "a.x")]
    assert list(imports("from ..c import x", "a.b.m")) == [(1, "a.c.x")]


@pytest.mark.parametrize(
    "source", ["import onnxruntime", "import torchlike", "from mpt_edge.inference.text import Text", "'torch'"]
)
def test_the_check_lets_others_pass(source: str) -> None:
    assert forbidden(source, "mpt_edge.inference.model", ABOVE_DEVICE) == []


def test_device_side_imports_nothing_above_it() -> None:
    files = device_files()
    assert {"model.py", "encoder.py", "bundle.py", "text.py", "__init__.py"} <= {f.name for f in files}
    assert offences(files, ROOT, ABOVE_DEVICE) == []


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("formats", ("runtime", "generation", "model", "encoder_model", "text_model", "loading")),
        ("runtime", ("generation", "model", "encoder_model", "text_model", "loading")),
        ("generation", ("model", "encoder_model", "text_model", "loading")),
    ],
)
def test_packages_of_the_device_side_stand_on_each_other(package: str, above: tuple[str, ...]) -> None:
    files = sorted((PACKAGE / package).rglob("*.py"))
    assert offences(files, ROOT, ("mpt_edge",))  # the check does read these files
    assert offences(files, ROOT, tuple(f"mpt_edge.{name}" for name in above)) == []


def test_only_the_runtime_knows_onnx_runtime() -> None:
    others = [file for file in device_files() if PACKAGE / "runtime" not in file.parents]
    assert offences(others, ROOT, ("onnxruntime",)) == []


def test_training_imports_neither_cli_nor_export() -> None:
    files = sorted((PACKAGE / "training").rglob("*.py"))
    assert "encoder.py" in {f.name for f in files}
    assert offences(files, ROOT, ("torch",))  # the check does read these files
    assert offences(files, ROOT, ("mpt_edge.cli", "mpt_edge_export")) == []


def test_export_does_not_import_cli() -> None:
    files = sorted((ROOT / "export").rglob("*.py"))
    assert {"graph.py", "bundle.py"} <= {f.name for f in files}
    assert offences(files, ROOT / "export", ("mpt_edge.training",))
    assert offences(files, ROOT / "export", ("mpt_edge.cli",)) == []


def test_import_loads_nothing_of_the_workshop() -> None:
    code = "import sys, mpt_edge; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.split())
    assert {"mpt_edge", "numpy", "onnxruntime"} <= loaded
    assert loaded.isdisjoint({*WORKSHOP, "typer", "mpt_edge_export"})


def test_public_names() -> None:
    assert mpt_edge.__all__ == sorted(mpt_edge.__all__)
    assert {"load", "Model", "Task", "Prediction", "MptEdgeError"} <= set(mpt_edge.__all__)
    assert all(hasattr(mpt_edge, name) for name in mpt_edge.__all__)
    classes = {
        name: value for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__
    }
    assert {name for name in mpt_edge.__all__ if name.endswith("Error")} == set(classes)
    assert all(issubclass(found, mpt_edge.MptEdgeError) for found in classes.values())
