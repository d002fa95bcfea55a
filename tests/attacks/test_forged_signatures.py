"""A short run of attacks/forged_signatures.py, and that it would see a hole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attacks import forged_signatures
from attacks.forged_signatures import ROTATIONS, TASKS, Target, attempt


def run(capsys: pytest.CaptureFixture[str], count: int) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the exit code, and the number of trials and of broken ones of each kind."""
    with pytest.raises(SystemExit) as left:
        forged_signatures.main(count)
    found = re.findall(r"^([\w ]+): ([\d,]+) trials, .*?([\d,]+) broken", capsys.readouterr().out, re.MULTILINE)
    counts = {name: (int(trials.replace(",", "")), int(broken.replace(",", ""))) for name, trials, broken in found}
    return int(left.value.code or 0), counts


def test_nothing_forged_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    code, counts = run(capsys, 60)
    assert code == 0
    assert set(counts) == {*TASKS, *ROTATIONS}
    assert all(broken == 0 for _, broken in counts.values())
    assert all(trials >= 8 for trials, _ in counts.values())


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(tmp_path_factory.mktemp("forged") / "place", 40)


@pytest.mark.parametrize(
    "name", ["swapped signatures", "changed and hashed again", "other keys", "confused kinds", "expired"]
)
def test_check_of_no_signature_is_seen(target: Target, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("mpt_edge.formats.signature.is_signature", lambda *_: True)
    tally = attempt(name, TASKS[name](target), target.takes_task, target.signed)
    assert tally.counts["broken"] > 0


def test_foreign_errors_and_refused_good_ones_are_seen(target: Target) -> None:
    def takes(data: bytes) -> None:
        raise KeyError(len(data))

    assert attempt("x", iter([("a", b"")]), takes, []).counts["broken"] == 1
    assert attempt("x", iter([]), target.takes_task, [b"none"]).counts["broken"] == 1


def test_bundle_is_real(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "task.safetensors"
    path.write_bytes(target.signed[0])
    assert target.bundle.install_untested(path)[0].name == "alpha"
