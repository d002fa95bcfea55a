"""A short run of attacks/faults.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT


@pytest.fixture(scope="module")
def tallies() -> dict[str, dict[str, int]]:
    """Return the counts of a short run of attacks/faults.py, by kind of fault."""
    options = ["--kills", "60", "--opens", "2000", "--installs", "50", "--stride", "5"]
    memory = Path("/dev/shm")  # noqa: S108 - where there is one, a sync takes no time
    where = {"TMPDIR": str(memory)} if memory.is_dir() else {}
    done = subprocess.run(
        [sys.executable, "attacks/faults.py", *options],
        cwd=ROOT,
        env={**os.environ, **where, "PYTHONPATH": f"{ROOT}:{ROOT / 'export'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    count = re.compile(r"([\d,]+) ([^()]+?)(?:,(?= \d)|$| \()")
    return {
        name: {what: int(number.replace(",", "")) for number, what in count.findall(rest)} for name, _, rest in lines
    }


@pytest.mark.parametrize("kind", ["killed at system calls", "failed system calls", "full disk"])
def test_faults_at_each_call_and_page(tallies: dict[str, dict[str, int]], kind: str) -> None:
    if kind not in tallies:
        pytest.skip(next(name for name in tallies if name.startswith(kind)))
    assert tallies[kind]["trials"] >= 15
    assert tallies[kind]["broken"] == 0


@pytest.mark.parametrize("kind", ["killed at random", "file size limit", "read-only", "two installers", "reader"])
def test_faults(tallies: dict[str, dict[str, int]], kind: str) -> None:
    assert tallies[kind]["broken"] == 0


def test_extent_of_the_faults(tallies: dict[str, dict[str, int]]) -> None:
    assert tallies["killed at random"]["trials"] == 60
    assert tallies["killed at random"]["killed, old"] > 0
    assert tallies["read-only"]["refused, old"] > 0
    assert tallies["two installers"]["with 100 installs"] == 1
    assert tallies["reader"]["opened"] == 2000
