"""History of a bundle: its last changes, as the manifest lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

#: Number of records that a manifest keeps; older ones are dropped.
MAX_RECORDS = 100


class Action(StrEnum):
    """Kind of a change to a task."""

    INSTALL = "install"
    DOWNGRADE = "downgrade"
    """An install of a version that was not above the highest."""
    ROLLBACK = "rollback"
    REMOVE = "remove"


_ACTIONS = {action.value: action for action in Action}


@dataclass(frozen=True, kw_only=True)
class ChangeRecord:
    """One change to one task. Tasks that were installed together have the same time."""

    when: str
    """Time of the change in UTC, as ISO 8601 writes it, to the second."""
    action: Action
    """Kind of the change."""
    task: str
    """The task's name."""
    version: int | None
    """Version that was installed, restored or removed; None for a removed file that could not be read."""
    sha256: str
    """SHA-256 of that version's file."""

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> Self:
        """Return the record of a manifest's entries that `is_record` has checked."""
        return cls(
            when=entries["when"],
            action=_ACTIONS[entries["action"]],
            task=entries["task"],
            version=entries["version"],
            sha256=entries["sha256"],
        )


def is_record(entries: object) -> bool:
    """Whether a manifest's entries are a record."""
    return (
        isinstance(entries, dict)
        and type(entries.get("when")) is str
        and type(entries.get("task")) is str
        and type(entries.get("sha256")) is str
        and type(entries.get("version", "")) in {int, type(None)}
        and type(entries.get("action")) is str
        and entries["action"] in _ACTIONS
    )


def timestamp() -> str:
    """Return the time now, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
