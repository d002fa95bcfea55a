"""The command on the bundle of the small encoder, and that bundle's model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge import Model
from tests.support import commands
from tests.support.rows import write

Command = Callable[..., commands.Result]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle)


@pytest.fixture(scope="module")
def run(tiny_bundle: Path) -> Command:
    """Return `mpt-edge run`, in this process."""
    return lambda *arguments, **options: commands.run_here("run", "--bundle", tiny_bundle, *arguments, **options)


@pytest.fixture(scope="module")
def run_process(tiny_bundle: Path) -> Command:
    """Return `mpt-edge run` in a process of its own, as users call it."""
    return lambda *arguments, **options: commands.run("run", "--bundle", tiny_bundle, *arguments, **options)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 2,000 rows of two tasks and many lengths."""
    rows = [
        {"text": f"film {'good ' * (i * 7 % 11)}{i}", "task": "topic" if i % 3 else "sentiment"} for i in range(2000)
    ]
    return write(tmp_path_factory.mktemp("many") / "rows.jsonl", *rows)
