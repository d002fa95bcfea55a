"""The keys that a bundle pins, and the signed document that replaces them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mpt_edge.errors import CorruptFileError, InputError, SignatureError
from mpt_edge.formats.public_keys import SIGNATURE_SIZE, check_keys, decode, encode, is_key, is_signature

#: Format entry of a rotation, and the first line of the message that is signed.
FORMAT = "mpt-edge key rotation 1"

#: Size limit of a rotation in bytes.
MAX_ROTATION_BYTES = 8 << 10

#: Largest number of pinned keys.
MAX_KEYS = 16

#: Largest sequence number, which all JSON readers hold exactly.
MAX_SEQUENCE = (1 << 53) - 1


@dataclass(frozen=True)
class PinnedKeys:
    """The keys whose tasks a bundle takes. Any of them can replace them all."""

    keys: tuple[str, ...]
    """Public keys, sorted; at least one."""
    sequence: int
    """Number that a rotation must exceed."""

    @classmethod
    def of(cls, keys: Sequence[str], sequence: int) -> Self:
        """Return checked keys. Raises InputError for no key, too many, or one that is none."""
        checked, problem = check_keys(keys), None
        if not checked:
            problem = "no key is given; pass one at least"
        elif len(checked) > MAX_KEYS:
            problem = f"{len(checked)} keys are too many; pass {MAX_KEYS} at most"
        elif not 0 <= sequence <= MAX_SEQUENCE:
            problem = f"the sequence number {sequence} cannot be used; pass one from 0 to {MAX_SEQUENCE}"
        if problem:
            raise InputError(f"{problem}.")
        return cls(checked, sequence)

    def to_entries(self) -> dict[str, Any]:
        """Return the manifest's entries."""
        return {"sequence": self.sequence, "keys": list(self.keys)}

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> Self:
        """Return the keys of a manifest's entries that `are_pinned_keys` has checked."""
        return cls(tuple(entries["keys"]), entries["sequence"])


def sequence_now() -> int:
    """Return the sequence number of keys that are pinned or signed now: the time in milliseconds."""
    return time.time_ns() // 1_000_000


def are_pinned_keys(entries: object) -> bool:
    """Whether a manifest's entries are pinned keys, as `PinnedKeys.to_entries` writes them."""
    return isinstance(entries, dict) and set(entries) == {"sequence", "keys"} and _are_valid(**entries)


def _are_valid(sequence: object, keys: object) -> bool:
    return (
        type(sequence) is int
        and 0 <= sequence <= MAX_SEQUENCE
        and isinstance(keys, list)
        and 0 < len(keys) <= MAX_KEYS
        and all(map(is_key, keys))
        and keys == sorted(set(keys))
    )


@dataclass(frozen=True)
class KeyRotation:
    """A document that replaces the keys of every bundle that pins its signer."""

    new: PinnedKeys
    """The new keys and the sequence number."""
    signer: str
    """The public key that signed."""
    signature: bytes
    """Its Ed25519 signature."""

    @staticmethod
    def message(new: PinnedKeys, signer: str) -> bytes:
        """Return the bytes that are signed: lines that can be read in one way only."""
        lines = (FORMAT, f"key {signer}", f"sequence {new.sequence}", f"keys {' '.join(new.keys)}")
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    def to_json(self) -> str:
        """Return the document."""
        entries = {"format": FORMAT} | self.new.to_entries() | {"signer": self.signer}
        return json.dumps(entries | {"signature": encode(self.signature)}, indent=2) + "\n"

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Read a document; it must be byte for byte what `to_json` writes.

        Args:
            data: the whole file.
            source: the file's name in messages.

        Raises:
            CorruptFileError: it is no rotation.
        """
        try:
            entries = json.loads(data)
            pinned = {name: entries[name] for name in ("sequence", "keys")}
            signer, signature = entries["signer"], decode(entries["signature"], SIGNATURE_SIZE)
            if are_pinned_keys(pinned) and is_key(signer) and signature is not None:
                rotation = cls(PinnedKeys.parse(pinned), signer, signature)
                if rotation.to_json().encode() == data:
                    return rotation
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # it is refused below
        raise CorruptFileError(f"{source} is no key rotation; pass the file that `mpt-edge keys rotate` wrote.")

    def check(self, pinned: PinnedKeys) -> None:
        """Check that this replaces some pinned keys.

        Raises:
            SignatureError: none of them signed it, or its number is not above theirs.
            MissingExtraError: `cryptography` is not installed.
        """
        if self.signer not in pinned.keys:
            raise SignatureError(
                f"the rotation is signed by {self.signer}, which the bundle does not pin; pass one that is signed by "
                f"{' or '.join(pinned.keys)}."
            )
        if not is_signature(self.signer, self.signature, self.message(self.new, self.signer)):
            raise SignatureError(
                f"the signature of the rotation is wrong: {self.signer} did not sign these keys; fetch it again."
            )
        if self.new.sequence <= pinned.sequence:
            raise SignatureError(
                f"the rotation has the sequence number {self.new.sequence}, and the bundle has {pinned.sequence}; pass "
                "a later rotation."
            )
