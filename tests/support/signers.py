"""Keys that sign in tests, and signed task files."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpt_edge.formats.signing import Signer


@cache
def signer(number: int = 1) -> Signer:
    """Return the same key for the same number."""
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def sign(path: Path, number: int = 1, expires: date | None = None) -> Path:
    """Sign a task file in place, and return its path."""
    path.write_bytes(signer(number).sign_task(path.read_bytes(), str(path), expires))
    return path
