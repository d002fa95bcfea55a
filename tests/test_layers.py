"""Layering: imports point down from cli to formats, in no circle, and the device side needs no training tools."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mpt_edge"
EXPORT = ROOT / "export" / "mpt_edge_export"

TOOLS = ("torch", "transformers", "onnx", "optimum")

#: From the lowest layer to the highest. A module imports from its own layer and lower ones.
LAYERS = (
    (
        "mpt_edge.errors",
        "mpt_edge._arrays",
        "mpt_edge._console",
        "mpt_edge._escapes",
        "mpt_edge._extras",
        "mpt_edge._files",
    ),
    ("mpt_edge.formats",),
    ("mpt_edge.hub",),
    (
        "mpt_edge.inference.answers",
        "mpt_edge.inference.arguments",
        "mpt_edge.inference.batching",
        "mpt_edge.inference.numerics",
        "mpt_edge.inference.tokenization",
    ),
    ("mpt_edge.inference.text",),
    ("mpt_edge.inference.runtime",),
    ("mpt_edge.inference.generation",),
    ("mpt_edge.inference.heads",),
    ("mpt_edge.inference", "mpt_edge.__init__"),  # models and tasks, and the public face
    ("mpt_edge.batch",),
    ("mpt_edge.training",),
    ("mpt_edge_export",),
    ("mpt_edge.server",),
    ("mpt_edge.cli", "mpt_edge.__main__"),
)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module imports, inside functions too."""
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


def without_type_checking(source: str) -> str:
    """Return a module's source without imports that type checkers alone see."""
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.unparse(tree)


def forbidden(source: str, module: str, names: tuple[str, ...], is_package: bool = False) -> list[str]:
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(source, module, is_package)
        if any(is_within(name, each) for each in names)
    ]


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def sources(*folders: Path) -> dict[str, tuple[str, bool]]:
    """Return source, and whether it is a package, of each module in some folders."""
    result = {}
    for folder in folders:
        root = EXPORT.parent if folder == EXPORT else ROOT
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            result[name] = file.read_text(encoding="utf-8"), is_package
    return result


def offenses(folders: list[Path], names: tuple[str, ...]) -> list[str]:
    modules = sources(*folders).items()
    return [each for name, (source, is_package) in modules for each in forbidden(source, name, names, is_package)]


def layer(module: str) -> int:
    """Return the layer whose longest name the module lies in."""
    name = "mpt_edge.__init__" if module == "mpt_edge" else module
    matches = [(len(each), i) for i, names in enumerate(LAYERS) for each in names if is_within(name, each)]
    assert matches, f"{module} belongs to no layer"
    return max(matches)[1]


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Return the modules of ours that each module imports when it runs."""
    modules = sources(PACKAGE, EXPORT)
    result: dict[str, set[str]] = {}
    for name, (source, is_package) in modules.items():
        result[name] = set()
        for _, imported in imports(without_type_checking(source), name, is_package):
            parts = imported.split(".")
            names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
            result[name] |= {next((each for each in names if each in modules), name)} - {name}
    return result


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import torch", "torch"),
        ("import torch.nn as nn", "torch.nn"),
        ("import numpy, onnx", "onnx"),
        ("from transformers import AutoModel", "transformers.AutoModel"),
        ("def f():\n    if True:\n        from torch import nn", "torch.nn"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import optimum", "optimum"),
        ("import importlib\nimportlib.import_module('onnx.helper')", "onnx.helper"),
        ("__import__('torch')", "torch"),
    ],
)
def test_the_check_sees_every_way_to_import(source: str, seen: str) -> None:
    line = len(source.splitlines())
    assert forbidden(source, "mpt_edge.formats.bundle", TOOLS) == [f"mpt_edge.formats.bundle:{line} imports {seen}"]


@pytest.mark.parametrize(
    ("source", "is_package", "name"),
    [
        ("from . import x", True, "a.b.x"),
        ("from . import x", False, "a.x"),
        ("from ..c import x", False, "c.x"),
        ("from .c.d import x", False, "a.c.d.x"),
        ("from mpt_edge import training", False, "mpt_edge.training"),
    ],
)
def test_relative_imports_of_a_package_and_of_a_module(source: str, is_package: bool, name: str) -> None:
    assert list(imports(source, "a.b", is_package)) == [(1, name)]


@pytest.mark.parametrize(
    "source", ["import onnxruntime", "import torchlike", "from mpt_edge.inference.text import Text", "'torch'"]
)
def test_the_check_lets_others_pass(source: str) -> None:
    assert forbidden(source, "mpt_edge.formats.bundle", TOOLS) == []


def test_imports_point_down(arrows: dict[str, set[str]]) -> None:
    assert "mpt_edge.formats.bundle" in arrows["mpt_edge.cli.tasks"]  # the check does read these files
    assert "mpt_edge.training.objectives.mask" in arrows["mpt_edge.training.objectives.table"]
    assert any(is_within(target, "mpt_edge.training") for target in arrows["mpt_edge_export.command"])
    upward = [f"{name} -> {each}" for name, targets in arrows.items() for each in targets if layer(each) > layer(name)]
    assert upward == []


def test_imports_form_no_circle(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_device_side_imports_no_training_tools() -> None:
    folders = [PACKAGE / name for name in ("formats", "hub", "inference", "batch")]
    assert offenses(folders, ("numpy",))  # the check does read these files
    assert offenses(folders, TOOLS) == []
    assert offenses([PACKAGE / "training"], ("torch",))


def test_the_server_imports_only_the_device_side(arrows: dict[str, set[str]]) -> None:
    modules = [name for name in arrows if is_within(name, "mpt_edge.server")]
    above = ("mpt_edge.training", "mpt_edge.cli", "mpt_edge_export", *TOOLS)
    assert len(modules) > 10
    assert [(name, each) for name in modules for each in arrows[name] if any(is_within(each, a) for a in above)] == []
    seen = {each.partition(":")[0] for each in offenses([PACKAGE], ("fastapi", "uvicorn", "prometheus_client"))}
    assert seen
    assert all(is_within(module, "mpt_edge.server") for module in seen)


def test_only_the_runtime_imports_onnx_runtime() -> None:
    seen = {each.partition(":")[0] for each in offenses([PACKAGE / "formats", PACKAGE / "inference"], ("onnxruntime",))}
    assert seen
    assert all(is_within(module, "mpt_edge.inference.runtime") for module in seen)


def test_the_root_has_the_public_face_errors_and_a_few_helpers() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")}
    helpers = {name for name in files if name.startswith("_") and not name.startswith("__")}
    assert files - helpers == {"__init__.py", "__main__.py", "errors.py"}
    assert len(helpers) <= 5
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {"formats", "hub", "inference", "batch", "training", "server", "cli"}


#: Modules without logic, and base classes that the tests of their subclasses run.
WITHOUT_OWN_TESTS = {"__main__", "_arrays", "encoder_head", "generative_head", "decoding", "limits"}


def test_every_module_with_logic_has_a_test_file_of_its_name() -> None:
    places = {PACKAGE: ROOT / "tests", EXPORT: ROOT / "tests" / "export"}
    expected = {
        place / module.relative_to(folder).with_name(f"test_{module.stem.lstrip('_')}.py")
        for folder, place in places.items()
        for module in folder.rglob("*.py")
        if module.stem not in WITHOUT_OWN_TESTS | {"__init__"}
    }
    assert len(expected) > 100
    assert sorted(str(file.relative_to(ROOT)) for file in expected if not file.is_file()) == []


def test_import_loads_no_training_tools() -> None:
    code = "import sys, mpt_edge; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    modules = result.stdout.split()
    assert {"mpt_edge", "numpy", "onnxruntime"} <= set(modules)
    unwanted = (*TOOLS, "typer", "rich", "mpt_edge_export", "mpt_edge.training", "mpt_edge.batch", "mpt_edge.cli")
    assert [name for name in modules if any(is_within(name, each) for each in unwanted)] == []


def test_public_names() -> None:
    assert mpt_edge.__all__ == sorted(mpt_edge.__all__)
    assert {"load", "Model", "Task", "Prediction", "MptEdgeError"} <= set(mpt_edge.__all__)
    assert all(hasattr(mpt_edge, name) for name in mpt_edge.__all__)
    modules = {name for name, value in vars(mpt_edge).items() if type(value) is type(mpt_edge)}
    public = {name for name in vars(mpt_edge) if not name.startswith("_")} - modules
    assert public | {"__version__"} == set(mpt_edge.__all__)
    classes = {
        name: value for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__
    }
    assert {name for name in mpt_edge.__all__ if name.endswith("Error")} == set(classes)
    assert all(issubclass(each, mpt_edge.MptEdgeError) for each in classes.values())
