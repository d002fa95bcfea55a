"""A short run of attacks/forged_tasks.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.common import Tally
from attacks.forged_tasks import forge


@pytest.fixture(scope="module")
def tallies(tiny_bundle: Path) -> list[Tally]:
    return list(forge(tiny_bundle, noise=10, bits=60))


def test_nothing_gets_through(tallies: list[Tally]) -> None:
    assert len(tallies) == 8
    for tally in tallies:
        assert tally.counts.total() > 0
        assert tally.problems == []


def test_extent(tallies: list[Tally]) -> None:
    damaged, others, examples, overflows, versions, downgrades, manifests, _ = (tally.counts for tally in tallies)
    assert (damaged["flipped bit"], damaged["no hash"], damaged["key twice"]) == (60, 1, 2)
    assert (others["swapped labels"], others["largest values"]) == (1, 1)
    assert others["noise"] >= 6
    assert examples.total() >= 18
    assert (overflows["not finite"], overflows["prompt that overflows"]) == (2, 2)
    assert (versions["no version"], versions["older"], versions["same version, other content"]) == (10, 1, 1)
    assert dict(downgrades) == {"removed": 2, "damaged": 2, "missing": 2, "rolled back": 2}
    assert manifests.total() == 5


def test_what_only_a_signature_stops(tallies: list[Tally]) -> None:
    """If one of these were refused, docs/security.md would promise too little."""
    counts = tallies[-1].counts
    assert counts["labels, example made anew"] == 1
    assert counts["noise, example made anew"] == 10
    assert counts["pooling, hash made anew, refused by a pin"] == 1
    assert counts["older manifest with its older files, refused by a pin"] == 1
