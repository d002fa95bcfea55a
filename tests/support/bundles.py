"""Files of the small bundle, and changes to it that only a test makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpt_edge.formats.bundle_reader import MANIFEST

TASK = "tasks/topic.safetensors"
PROMPT = "prompts/mpt.safetensors"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    entries = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(entries)
    (folder / MANIFEST).write_text(json.dumps(entries), "utf-8")


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
