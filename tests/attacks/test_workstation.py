"""A short run of attacks/workstation.py, and the ways in which it sees what gets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attacks.workstation import Target, attack, check, damages
from attacks.workstation_files import folded_prompt
from mpt_edge.errors import CorruptFileError


def test_nothing_gets_through(tiny_folder: Path, tmp_path: Path) -> None:
    tallies = {tally.name: tally for tally in attack(tiny_folder, tmp_path, count=4)}
    assert {name: tally.problems for name, tally in tallies.items() if tally.problems} == {}
    assert len(tallies) == 8
    assert all(tally.counts["refused"] for tally in tallies.values())


def several_lines(folder: Path) -> None:
    raise CorruptFileError(f"{folder}\nis bad")


def foreign(folder: Path) -> None:
    raise KeyError("x")


def runs_code(folder: Path) -> None:
    (folder / "code-was-run").mkdir(exist_ok=True)


@pytest.mark.parametrize("read", [several_lines, foreign, runs_code])
def test_what_gets_through_shows(tmp_path: Path, read: Callable[[Path], None]) -> None:
    reads: list[Path] = []

    def after_the_first(folder: Path) -> None:
        reads.append(folder)
        if len(reads) > 1:
            read(folder)

    tally = check(Target("prompts", folded_prompt, ("*.yml",), after_the_first), 3, tmp_path)
    assert tally.counts["broken"] == len(tally.problems) == 3


def test_damages_are_of_all_kinds(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.json", '{"a": [1, {"b": "c"}]}'
    path.write_text(whole)
    ways, kinds, contents = damages(path, np.random.default_rng(0)), set[str](), set[bytes]()
    for _ in range(60):
        kind, damage = next(ways)
        damage()
        kinds.add(kind)
        if path.is_dir():
            path.rmdir()
        elif path.is_file():
            contents.add(path.read_bytes())
        path.unlink(missing_ok=True)
        path.write_text(whole)
    assert {"empty", "cut", "bytes changed", "values changed", "missing", "a folder"} < kinds
    assert len(contents) > 25
