"""The names that the package exports, and their short representations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mpt_edge

_CODE = """
import types, mpt_edge
names = [name for name, value in vars(mpt_edge).items() if not isinstance(value, types.ModuleType)]
print(*[name for name in names if not name.startswith("_") or name == "__version__"])
"""


def test_all_names_that_can_be_imported_are_exported() -> None:
    """In a new process, since tests import submodules."""
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=120, check=True)
    assert sorted(done.stdout.split()) == list(mpt_edge.__all__)


def test_all_public_objects_have_documentation() -> None:
    for name in mpt_edge.__all__:
        assert name == "__version__" or getattr(mpt_edge, name).__doc__


def test_representations_are_short(tiny_bundle: Path) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1)
    task = model.task("topic")
    objects = [model, task, task.file, model.bundle.prompt("mpt"), task("a film")]
    for item in objects:
        assert len(repr(item)) < 400, item
    assert repr(task.file).startswith("TaskFile(name='topic', head_type='similarity', inputs=<Inputs.TEXT: 'text'>")
