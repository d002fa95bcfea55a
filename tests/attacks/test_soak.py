"""A run of attacks/soak.py of some seconds, and the problems that it notices."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from attacks import soak
from attacks.common import Tally
from mpt_edge.errors import MismatchError


@pytest.fixture(scope="module")
def tallies(tiny_bundle: Path) -> dict[str, Tally]:
    return {tally.name: tally for tally in soak.soak(tiny_bundle, seconds=3, threads=8, reload=0.5)}


def test_every_answer_is_right_while_the_bundle_changes(tallies: dict[str, Tally]) -> None:
    answers = tallies["answers"].counts
    assert tallies["answers"].problems == []
    assert answers["answered"] > 100
    assert answers["answered in mixed batches"] > 50
    changes = tallies["changes"].counts
    assert tallies["changes"].problems == []
    assert changes["installer"] == 2
    assert min(changes["installs"], changes["rollbacks"], changes["removes"]) > 1


def test_memory_is_measured(tallies: dict[str, Tally]) -> None:
    assert tallies["memory"].counts.total() == 1  # a run of three seconds shows no growth, and may show a start


@pytest.mark.parametrize(
    ("samples", "is_flat"),
    [
        ([100] * 60, True),
        ([20] * 6 + [100] * 54, True),  # the start
        ([100] * 30 + [106] * 30, True),
        ([100] * 30 + [120] * 30, False),
        (list(range(100, 160)), False),
        ([100, 140] * 30, True),
        ([100], False),
    ],
)
def test_flat_memory(samples: list[int], is_flat: bool) -> None:
    tally = soak.memory_tally([sample << 20 for sample in samples], 30.0)
    assert (tally.counts["broken"] == 0) == is_flat


def test_answers_of_another_version_are_noticed(folder: Path) -> None:
    run = soak.Run(folder, soak._known_answers(folder), time.time(), 1)
    scores = run.known[1, "a witty film"]
    assert run._problem(scores, "a witty film", [1]) is None
    assert run._problem(scores, "a witty film", range(soak.VARIANTS)) is None
    assert "no version in use gives" in (run._problem(scores, "a witty film", [0, 2, 3]) or "")
    assert run._problem(scores, "ball game", range(soak.VARIANTS)) is not None


def test_refusals_and_lost_changes_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MismatchError("no")

    run = soak.Run(folder, {}, time.time() + 0.05, 1)
    monkeypatch.setattr(run, "_ask", refuse)
    run.answer(2)
    assert run.tally.counts.keys() == {"broken"}
    assert run.tally.problems[0] == "answer: refused: no"
    with pytest.raises(RuntimeError, match="topic has version 1 after a change to 2"):
        soak._expect(folder, "topic", 2)
