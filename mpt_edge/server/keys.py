"""API keys: read from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mpt_edge._files import read_small
from mpt_edge.errors import InputError

_MAX_FILE = 1 << 20

#: Beginning of a line with a key that may change tasks.
_ADMIN = "admin:"

#: Shortest key. Shorter ones can be guessed at the speed of this server.
_MIN_LENGTH = 16


class Access(IntEnum):
    """Rights of a request."""

    NONE = 0
    """No valid key where one is needed."""
    USE = 1
    """Texts may be answered."""
    ADMIN = 2
    """Tasks may be changed too."""


@dataclass(frozen=True)
class Keys:
    """Keys of a server, by hash; without any, everyone may use it and nobody may change its tasks."""

    hashes: tuple[tuple[bytes, Access], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a file with a key on each line; ``admin:`` begins one that may change tasks.

        Raises:
            CorruptFileError: the file cannot be read.
            InputError: it holds no key, or one that is too short or not ASCII.
        """
        lines = read_small(path, _MAX_FILE).decode("utf-8", "replace").splitlines()
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise InputError(f"{path} holds no key; write one a line, of {_MIN_LENGTH} characters or more.")
        result = []
        for number, line in enumerate(keys, 1):
            key = line.removeprefix(_ADMIN).strip()
            if len(key) < _MIN_LENGTH or not key.isascii() or any(c.isspace() for c in key):
                raise InputError(
                    f"key {number} of {path} cannot be used; write {_MIN_LENGTH} or more ASCII characters without "
                    "spaces, such as those of `openssl rand -hex 32`."
                )
            result.append((_hash(key), Access.ADMIN if line.startswith(_ADMIN) else Access.USE))
        return cls(tuple(result))

    @property
    def has_admin(self) -> bool:
        """Whether there is a key that may change tasks."""
        return any(access is Access.ADMIN for _, access in self.hashes)

    def access(self, authorization: str | None) -> Access:
        """Return the rights that an ``Authorization`` header gives; all keys are compared, whichever fits."""
        if not self.hashes:
            return Access.USE
        scheme, _, key = (authorization or "").partition(" ")
        given = _hash(key.strip() if scheme.lower() == "bearer" else "")
        result = Access.NONE
        for known, access in self.hashes:
            if hmac.compare_digest(given, known):
                result = max(result, access)
        return result


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
