"""Files of the tiny bundle, and changes to it that only a test makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpt_edge.formats.bundle import previous_key
from mpt_edge.formats.manifest import MANIFEST, read_manifest
from mpt_edge.formats.vectors import task_key

TASK = "tasks/topic.safetensors"
PROMPT = "prompts/mpt.safetensors"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the entries of a bundle's manifest, and its hash with them."""
    entries = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(entries)
    (folder / MANIFEST).write_bytes(sealed(entries))


def sealed(entries: dict[str, Any]) -> bytes:
    """Return a manifest of some entries with the hash that belongs to them, as docs/bundle.md describes it."""
    rest = {name: entry for name, entry in entries.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(rest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def task_path(folder: Path, name: str) -> Path:
    """Return the path of a task's file in a bundle."""
    return folder / read_manifest(folder / MANIFEST).stored(task_key(name))


def previous_path(folder: Path, name: str) -> Path:
    """Return the path of the file that a task replaced in a bundle."""
    return folder / read_manifest(folder / MANIFEST).stored(previous_key(name))


def flip(path: Path, offset: int = -1) -> None:
    """Flip one bit of a byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
