"""A short run of attacks/hostile_sizes.py, and trials that it must notice."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from attacks.hostile_sizes import KINDS, attack, trial
from mpt_edge.errors import InputError
from mpt_edge.inference.model import Model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="trials are forked")

#: One of so many trials of a kind, for the kinds with many.
EVERY = {"texts": 3, "manifests": 3, "files": 9}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_gets_through(tiny_bundle: Path, kind: str) -> None:
    tally = attack(tiny_bundle, kind, EVERY.get(kind, 2))
    assert tally.problems == []
    assert tally.counts["answered"] + tally.counts["refused"] == tally.counts.total() > 0


def use_memory(_: Model, __: Path) -> None:
    assert len(b"x" * (300 << 20)) > 0


def use_time(_: Model, __: Path) -> None:
    began = time.process_time()
    while time.process_time() - began < 1.1:
        pass


def fail(_: Model, __: Path) -> None:
    raise UnicodeError("foreign")


def refuse(_: Model, __: Path) -> None:
    raise InputError("no.")


@pytest.mark.parametrize(
    ("attempt", "result", "says"),
    [
        (use_memory, "failed", r"it took (29\d|30\d) MB"),
        (use_time, "failed", r"it took 1\.\d s"),
        (fail, "failed", "foreign"),
        (refuse, "refused", None),
        (lambda _, __: None, "answered", None),
    ],
)
def test_what_a_trial_notices(
    tiny_bundle: Path, tmp_path: Path, attempt: object, result: str, says: str | None
) -> None:
    seen, trouble = trial(tiny_bundle, attempt, tmp_path)  # type: ignore[arg-type]
    assert seen == result
    assert (trouble is None) if says is None else (trouble is not None and re.search(says, trouble))
