"""A short run of attacks/mutants.py, and the ways in which it sees that a mutant gets through."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from attacks.mutant_kinds import Kind, MeaningError, PromptKind, TaskKind, join, seal, split
from attacks.mutant_workers import mutant, run_workers, try_numbers
from attacks.mutants import SHARES, attack, make_kinds, replay_file, summary
from attacks.originals import file_bytes, make_prompts, make_tasks
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.taskfile import TaskFile


@pytest.fixture(scope="module")
def kinds(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return {kind.name: kind for kind in make_kinds(tmp_path_factory.mktemp("kinds"), set(SHARES), tiny_bundle)}


def test_shares() -> None:
    assert sum(SHARES.values()) == 1000


@pytest.mark.parametrize(
    ("name", "count"),
    [("task", 400), ("prompt", 300), ("manifest", 300), ("generated task", 1), ("generated prompt", 1),
     ("generated manifest", 1), ("answers", 40), ("bundle", 10)],
)  # fmt: skip
def test_no_mutant_gets_through(kinds: dict[str, Kind], name: str, count: int) -> None:
    report = try_numbers(kinds[name], 0, range(count))
    assert report.failures == []
    assert report.counts.total() == count
    if not name.startswith(("generated", "answers", "bundle")):
        assert report.counts["different"] > count // 50  # so mutants do reach the checks after the hash
        assert report.counts["refused"] > count // 2


def test_mutants_in_processes(kinds: dict[str, Kind], tmp_path: Path) -> None:
    report = attack(kinds["prompt"], 3, 60, 2, tmp_path / "keep")
    assert (report.counts.total(), report.failures) == (60, [])
    assert report.counts == try_numbers(kinds["prompt"], 3, range(60)).counts
    assert summary(kinds["prompt"], report).startswith("prompt: 60 mutants, ")
    assert not (tmp_path / "keep").exists()


def test_kept_mutants_are_checked_again(
    kinds: dict[str, Kind], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, is_sealed = mutant(kinds["prompt"], 0, 0)
    monkeypatch.setattr(PromptKind, "check", lambda self, data, *, is_sealed: str(1 // (len(data) * 0)))
    report = attack(kinds["prompt"], 0, 1, 1, tmp_path)
    assert report.failures == [(0, "ZeroDivisionError: integer division or modulo by zero")]
    (path,) = tmp_path.iterdir()
    assert (path.name, path.read_bytes()) == (f"prompt-0-0{'-sealed' * is_sealed}", data)
    with pytest.raises(ZeroDivisionError):
        replay_file(kinds["prompt"], path)
    monkeypatch.undo()
    assert replay_file(kinds["prompt"], path).startswith("refused: ") or is_sealed


def test_sealed_files_have_the_products_hash(tmp_path: Path) -> None:
    for item, data in zip(make_tasks(), file_bytes(tmp_path, make_tasks()), strict=True):
        tree, buffer = split(data)
        assert seal(tree, buffer) == data
        assert TaskFile.parse(seal(tree, buffer) or b"", "x").name == item.name
        with pytest.raises(CorruptFileError, match="x is not laid out as mpt-edge writes it"):
            TaskFile.parse(join(*split(seal(tree, buffer, is_tidy=False) or b"")), "x")


@pytest.mark.parametrize("is_sealed", [True, False])
def test_another_meaning_is_noticed(tmp_path: Path, is_sealed: bool) -> None:
    items = make_prompts()
    kind, (other,) = PromptKind(list(file_bytes(tmp_path, items[1:]))), file_bytes(tmp_path, items[:1])
    kind.begin()
    try:
        if is_sealed:
            assert kind.check(other, is_sealed=True) == "different"
            assert kind.check(kind.originals[0], is_sealed=False) == "same"
        else:
            with pytest.raises(MeaningError, match="under the old hash"):
                kind.check(other, is_sealed=False)
    finally:
        kind.end()


def test_a_parser_that_loses_something_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = TaskKind(list(file_bytes(tmp_path, make_tasks()[:1])))
    (full,) = file_bytes(tmp_path, make_tasks()[1:2])
    kind.begin()
    monkeypatch.setattr(TaskKind, "rewrite", lambda self, item: full if item.license is None else self.originals[0])
    with pytest.raises(MeaningError, match="when it is written again"):
        kind.check(full, is_sealed=True)
    kind.end()


class Misbehaving(Kind):
    """Mutants that do to their process what their number says."""

    name = "misbehaving"
    max_seconds = 0.2

    def make(self, random: Random) -> tuple[bytes, bool]:
        return random.randbytes(4), False

    def check(self, data: bytes, *, is_sealed: bool) -> str:
        number = next(n for n in range(100) if mutant(self, 0, n)[0] == data)
        if number == 3:
            raise KeyError("x")
        if number == 5:
            end = time.process_time() + 10
            while time.process_time() < end:
                pass
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 9:
            assert np.ones(300 << 17).sum()
        if number % 2:
            raise InputError("no")
        return "same"


def test_each_way_to_get_through_is_noticed() -> None:
    report = run_workers([(Misbehaving(), range(12))], 0, 2)["misbehaving"]
    assert sorted(report.failures) == [
        (3, "KeyError: 'x'"),
        (5, "it takes more than 0.2 s"),
        (7, f"the process ends by signal {int(signal.SIGKILL)}"),
        (9, report.failures[-1][1]),
    ]
    assert report.failures[-1][1].startswith("it takes 3")
    assert report.counts == {"same": 6, "refused": 2, "foreign": 1, "slow": 1, "died": 1, "large": 1}
