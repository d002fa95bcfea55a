"""Private keys, and the signatures that they make of task files and key rotations."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from mpt_edge._extras import require
from mpt_edge._files import read_small
from mpt_edge.errors import InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.key_rotation import KeyRotation, PinnedKeys
from mpt_edge.formats.public_keys import format_key
from mpt_edge.formats.signature import Signature, signed_message
from mpt_edge.formats.taskfile import TaskFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Size limit of a private key's file in bytes.
_MAX_KEY_BYTES = 16 << 10

#: Returns the passphrase of an encrypted key; called only for one.
Ask = Callable[[], str]


class Signer:
    """An Ed25519 private key.

    Attributes:
        public: its public key, ``ed25519:`` and base64.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Use `Signer.load` or `Signer.create` instead."""
        self._key = key
        self.public = format_key(key.public_key().public_bytes_raw())

    @classmethod
    def create(cls, path: Path, passphrase: str | None = None) -> Signer:
        """Make a key, and write it as PEM (PKCS 8) that only this user may read.

        Raises:
            InputError: the file exists, which is never replaced.
            MissingExtraError: `cryptography` is not installed.
        """
        require("sign", "cryptography")
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        data = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption(),
        )
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InputError(f"{path} exists, and a key is never replaced; name another file.") from None
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return cls(key)

    @classmethod
    def load(cls, path: Path, ask: Ask) -> Signer:
        """Read a private key from PEM.

        Args:
            path: the file.
            ask: returns the passphrase of a key that has one.

        Raises:
            InputError: it is no Ed25519 private key, or the passphrase is wrong.
            CorruptFileError: the file cannot be read.
            MissingExtraError: `cryptography` is not installed.
        """
        require("sign", "cryptography")
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = read_small(path, _MAX_KEY_BYTES)
        is_encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data
        passphrase = ask().encode() if is_encrypted else None
        try:
            key = load_pem_private_key(data, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            fix = "check the passphrase" if is_encrypted else "make one with `mpt-edge keys new`"
            raise InputError(f"{path} cannot be read as a private key in PEM; {fix}.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{path} is a key of another kind than Ed25519; make one with `mpt-edge keys new`.")
        return cls(key)

    def sign_task(self, data: bytes, source: str, expires: date | None = None) -> bytes:
        """Return a task file with this key's signature, in place of any other.

        Args:
            data: the whole file.
            source: the file's name in messages.
            expires: last day, in UTC, on which it may be installed.

        Raises:
            CorruptFileError: it is no task file.
        """
        TaskFile.parse(data, source)
        arrays, metadata = tensors.parse(data, source)
        digest = metadata[tensors.HASH]
        value = self._key.sign(signed_message(self.public, expires, digest))
        entry = str(Signature(self.public, expires, value, digest))
        return tensors.serialize(arrays, {**metadata, tensors.SIGNATURE: entry})

    def rotate(self, new: PinnedKeys) -> KeyRotation:
        """Return a document that replaces this key, and those pinned beside it."""
        return KeyRotation(new, self.public, self._key.sign(KeyRotation.message(new, self.public)))
