"""`mpt-edge tasks log`: the history of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.bundles import edit
from tests.support.commands import run_here
from tests.support.outcomes import done, refused

MakeTask = Callable[..., Path]
HEADER = ["when", "change", "task", "version", "sha256", "signer"]


def test_log_of_a_new_bundle(tiny_bundle: Path) -> None:
    assert done(run_here("tasks", "log", "-b", tiny_bundle)).split() == HEADER
    assert done(run_here("tasks", "log", "-b", tiny_bundle, "--json")) == ""


def test_newest_change_is_first(folder: Path, task_file: MakeTask) -> None:
    one, two = task_file("one", version=3), task_file("two")
    done(run_here("tasks", "install", one, two, "-b", folder))
    done(run_here("tasks", "remove", "one", "-b", folder))
    rows = [json.loads(line) for line in done(run_here("tasks", "log", "-b", folder, "--json")).splitlines()]
    assert [(row["action"], row["task"], row["version"]) for row in rows] == [
        ("remove", "one", 3),
        ("install", "two", 1),
        ("install", "one", 3),
    ]
    assert list(rows[0]) == ["when", "action", "task", "version", "sha256", "signer"]
    assert rows[0]["sha256"] == rows[2]["sha256"]
    table = [line.split() for line in done(run_here("tasks", "log", "-b", folder)).splitlines()[1:]]
    assert [row[1:4] for row in table] == [["remove", "one", "3"], ["install", "two", "1"], ["install", "one", "3"]]
    assert table[0][4] == rows[0]["sha256"][:12]


def test_removed_task_that_could_not_be_read_has_no_version(folder: Path) -> None:
    (folder / "tasks" / "topic.safetensors").unlink()
    done(run_here("tasks", "remove", "topic", "-b", folder))
    (row,) = map(json.loads, done(run_here("tasks", "log", "-b", folder, "--json")).splitlines())
    assert (row["action"], row["task"], row["version"]) == ("remove", "topic", None)


def test_control_characters_do_not_reach_the_terminal(folder: Path) -> None:
    record = {"when": "\x1b[31mnow", "action": "install", "task": "a\x07", "version": 1, "sha256": "0" * 64}
    record["signer"] = "\x1b[2J"
    edit(folder, lambda manifest: manifest.update(changes=[record]))
    assert not {"\x1b", "\x07"} & set(done(run_here("tasks", "log", "-b", folder)))


def test_history_that_is_none_is_refused(folder: Path) -> None:
    for bad in ([{"when": 1}], {"when": "now"}, [None], [{"when": "a", "action": "b", "task": "c", "sha256": "d"}]):
        edit(folder, lambda manifest, bad=bad: manifest.update(changes=bad))
        assert "the entry 'changes' cannot be used" in refused(run_here("tasks", "log", "-b", folder))
