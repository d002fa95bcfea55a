"""Records of a bundle's history: which entries of a manifest are some."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from mpt_edge.formats.history import Action, ChangeRecord, is_record, timestamp

ENTRIES = {"when": "2026-01-02T03:04:05+00:00", "action": "install", "task": "a", "version": 2, "sha256": "0" * 64}
ENTRIES["signer"] = None


@pytest.mark.parametrize("version", [2, None])
@pytest.mark.parametrize("action", list(Action))
def test_record_is_read_back(action: Action, version: int | None) -> None:
    record = ChangeRecord(when=timestamp(), action=action, task="a", version=version, sha256="0" * 64)
    entries = json.loads(json.dumps(asdict(record)))
    assert is_record(entries)
    assert ChangeRecord.parse(entries) == record
    assert isinstance(ChangeRecord.parse(entries).action, Action)


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_that_is_not_there(name: str) -> None:
    assert is_record(ENTRIES)
    assert not is_record({key: value for key, value in ENTRIES.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("when", 5),
        ("when", None),
        ("action", "other"),
        ("action", None),
        ("action", []),
        ("task", 1),
        ("version", "2"),
        ("version", 2.0),
        ("version", True),
        ("sha256", None),
        ("signer", 1),
    ],
)
def test_entry_of_another_type(name: str, value: object) -> None:
    assert not is_record(ENTRIES | {name: value})


@pytest.mark.parametrize("entries", [None, [], "install", [ENTRIES]])
def test_no_entries(entries: Any) -> None:
    assert not is_record(entries)


def test_time_is_in_utc_to_the_second() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    when = datetime.fromisoformat(timestamp())
    assert before <= when <= datetime.now(UTC)
    assert (when.tzinfo, when.microsecond) == (UTC, 0)
