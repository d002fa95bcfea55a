"""The signature of a task file: who vouches for its content, and until which day it may be installed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self

from mpt_edge.errors import CorruptFileError, SignatureError
from mpt_edge.formats.public_keys import SIGNATURE_SIZE, decode, encode, is_key, is_signature

#: First line of each signed message, so that no signature of another kind fits.
_DOMAIN = "mpt-edge task signature 1"

#: Word for the day of a signature that does not expire.
NEVER = "never"


def signed_message(key: str, expires: date | None, digest: str) -> bytes:
    """Return the bytes that a task's signature signs: four lines that can be read in one way only.

    Args:
        key: the signer's public key.
        expires: last day on which the file may be installed.
        digest: the file's content hash, its ``sha256`` entry.
    """
    lines = (_DOMAIN, f"key {key}", f"expires {_day(expires)}", f"sha256 {digest}")
    return "".join(f"{line}\n" for line in lines).encode("ascii")


@dataclass(frozen=True)
class Signature:
    """Entry ``signature`` of a task file, not yet checked."""

    key: str
    """The signer's public key, ``ed25519:`` and base64."""
    expires: date | None
    """Last day, in UTC, on which the file may be installed; None for no end."""
    value: bytes
    """The Ed25519 signature."""
    digest: str
    """Content hash of the file that it was read from."""

    def __str__(self) -> str:
        """Return the entry: key, day and signature, each after a space."""
        return f"{self.key} {_day(self.expires)} {encode(self.value)}"

    @classmethod
    def parse(cls, text: str, digest: str, source: str) -> Self:
        """Read a file's entry. There is one way to write each signature.

        Args:
            text: the entry.
            digest: content hash of the file.
            source: the file's name in messages.

        Raises:
            CorruptFileError: it is no signature.
        """
        parts = text.split(" ")
        key, day, encoded = parts if len(parts) == 3 else ("", "", "")
        value = decode(encoded, SIGNATURE_SIZE)
        if not is_key(key) or value is None or not _is_day(day):
            raise CorruptFileError(f"{source} has a signature that cannot be read; sign it again, or fetch it again.")
        return cls(key, None if day == NEVER else date.fromisoformat(day), value, digest)

    @property
    def is_genuine(self) -> bool:
        """Whether the key signed this content. Raises MissingExtraError."""
        return is_signature(self.key, self.value, signed_message(self.key, self.expires, self.digest))


def check_signature(task: str, signature: Signature | None, keys: Collection[str], today: date | None = None) -> None:
    """Check that one of some keys signed a task.

    Args:
        task: the task's name.
        signature: its signature, if it has one.
        keys: the keys that count.
        today: day on which the signature must not have expired; None where that does not matter.

    Raises:
        SignatureError: none of them did, or the signature has expired.
        MissingExtraError: `cryptography` is not installed.
    """
    if signature is None:
        raise SignatureError(
            f"the task {task!r} is not signed, and a signature is required; install a file that `mpt-edge sign` signed."
        )
    if signature.key not in keys:
        raise SignatureError(
            f"the task {task!r} is signed by {signature.key}, which is not a required key; install a file that is "
            f"signed by {' or '.join(sorted(keys))}."
        )
    if not signature.is_genuine:
        raise SignatureError(
            f"the signature of the task {task!r} is wrong: {signature.key} did not sign this content; fetch it again."
        )
    if today is not None and signature.expires is not None and signature.expires < today:
        raise SignatureError(
            f"the signature of the task {task!r} expired on {signature.expires}, and this device's clock says {today}; "
            "install a file that is signed anew."
        )


def today() -> date:
    """Return the day in UTC by this device's clock."""
    return datetime.now(UTC).date()


def _day(expires: date | None) -> str:
    return NEVER if expires is None else expires.isoformat()


def _is_day(text: str) -> bool:
    if text == NEVER:
        return True
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
