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
    """Kind of a change."""

    INSTALL = "install"
    DOWNGRADE = "downgrade"
    """An install of a version that was not above the highest."""
    ROLLBACK = "rollback"
    REMOVE = "remove"
    KEYS = "keys"


_ACTIONS = {action.value: action for action in Action}


@dataclass(frozen=True, kw_only=True)
class ChangeRecord:
    """One change to one task, or to the pinned keys. Tasks that were installed together have the same time."""

    when: str
    """Time of the change in UTC, as ISO 8601 writes it, to the second."""
    action: Action
    """Kind of the change."""
    task: str
    """The task's name; empty for a change of keys."""
    version: int | None
    """Version that was installed, restored or removed; None for a removed file that could not be read. For keys,
    their sequence number; None where none are pinned any more."""
    sha256: str
    """SHA-256 of that version's file, or of the keys in JSON."""
    signer: str | None = None
    """Key whose signature was checked for this change; None where none was required."""

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> Self:
        """Return the record of a manifest's entries that `is_record` has checked."""
        return cls(
            when=entries["when"],
            action=_ACTIONS[entries["action"]],
            task=entries["task"],
            version=entries["version"],
            sha256=entries["sha256"],
            signer=entries["signer"],
        )


def is_record(entries: object) -> bool:
    """Whether a manifest's entries are a record."""
    return (
        isinstance(entries, dict)
        and type(entries.get("when")) is str
        and type(entries.get("task")) is str
        and type(entries.get("sha256")) is str
        and type(entries.get("version", "")) in {int, type(None)}
        and type(entries.get("signer", "")) in {str, type(None)}
        and "signer" in entries
        and type(entries.get("action")) is str
        and entries["action"] in _ACTIONS
    )


def timestamp() -> str:
    """Return the time now, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
