"""History of a bundle: its last changes, as the manifest lists them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

#: Number of records that a manifest keeps; older ones are dropped.
MAX_RECORDS = 100


class Action(StrEnum):
    """Kind of a change to a task."""

    INSTALL = "install"
    ROLLBACK = "rollback"
    REMOVE = "remove"


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
    def parse(cls, entries: Any) -> Self | None:
        """Return the record of a manifest's entries; None if they are no record."""
        if not isinstance(entries, dict):
            return None
        texts = [entries.get(name) for name in ("when", "action", "task", "sha256")]
        version = entries.get("version")
        if not all(isinstance(text, str) for text in texts) or type(version) not in (int, type(None)):
            return None
        when, action, task, sha256 = map(str, texts)
        if action not in list(Action):
            return None
        return cls(when=when, action=Action(action), task=task, version=version, sha256=sha256)


def timestamp() -> str:
    """Return the time now, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
