"""A short run of attacks/escapes.py, and the ways in which it sees what gets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks import escapes
from attacks.common import Tally


@pytest.fixture
def tallies(tiny_folder: Path, tiny_bundle: Path, tmp_path: Path) -> dict[str, Tally]:
    return {tally.name: tally for tally in escapes.attack(tiny_folder, tiny_bundle, None, tmp_path, stride=13)}


def test_nothing_gets_through(tallies: dict[str, Tally]) -> None:
    assert {name: tally.problems for name, tally in tallies.items() if tally.problems} == {}
    assert {"errors", "usage", "JSON", "run, table", "run, JSON", "commands"} <= set(tallies)
    assert tallies["errors"].counts["escaped"] >= 10


@pytest.mark.parametrize("name", ["streams.escaped", "output.one_line"])
def test_an_escape_that_is_missing_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"mpt_edge.cli.{name}", lambda text: text)
    monkeypatch.setattr("mpt_edge.cli.streams.escaped", lambda text: text)
    case = escapes.Case("errors", ("tasks", "show", escapes.HOSTILE, "--bundle", tmp_path / escapes.HOSTILE))
    tally = Tally("errors")
    escapes.check(case, tally, has_traceback=name.startswith("streams"), is_terminal=True)
    assert len(tally.problems) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\x1b[1mb\x1b[0m\x1b[2K\n", set()),
        ("a\x1b[38;5;213mb", {"\x1b[38;5;213m"}),
        ("a\x1b]0;t", {"\x1b"}),
        ("a\x9bb\u202e", {"\x9b", "\u202e"}),
        ("a\rz", {"\r"}),
    ],
)
def test_leaks_on_a_terminal(text: str, found: set[str]) -> None:
    assert escapes.leaks(text, is_terminal=True) == found


def test_leaks_in_a_pipe() -> None:
    assert escapes.leaks("a\x1b[1mb", is_terminal=False) == {"\x1b"}
