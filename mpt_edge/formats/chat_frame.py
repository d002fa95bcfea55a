"""The text around a message, as a model's chat template writes it.

Templates are programs. Training runs a model's once, so that a device needs no interpreter of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpt_edge.errors import InputError


@dataclass(frozen=True)
class ChatFrame:
    """Fixed text before and after a user's message, all special tokens included."""

    before: str
    """Text before the message: a system text and the beginning of the user's turn."""
    after: str
    """Text after the message: the end of the user's turn and the beginning of the answer."""
    trims: bool = False
    """Whether whitespace around a message is removed."""

    def wrap(self, message: str) -> str:
        """Return a message with the text around it."""
        return f"{self.before}{message.strip() if self.trims else message}{self.after}"

    def entries(self) -> dict[str, Any]:
        """Return the frame as a task file has it."""
        return {"before": self.before, "after": self.after, "trims": self.trims}

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> ChatFrame:
        """Return the frame of a task file's entries. Raises InputError for entries of other names or types."""
        kinds = {"before": str, "after": str, "trims": bool}
        if entries.keys() != kinds.keys() or any(type(entries[name]) is not kind for name, kind in kinds.items()):
            raise InputError(f"a chat frame has the entries {', '.join(kinds)}; train the task again.")
        return cls(**entries)
