"""Ed25519 public keys as one short line, and the check of their signatures.

`cryptography` is imported where a signature is checked. A bundle without pinned keys needs none of it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from mpt_edge._extras import require
from mpt_edge.errors import InputError

#: Start of a public key's line; its 32 bytes follow in base64.
PREFIX = "ed25519:"

#: Bytes of a public key, and of a signature.
KEY_SIZE, SIGNATURE_SIZE = 32, 64

#: Bits of a key that hold the point's y coordinate; the last one is the sign of x.
_Y_BITS = (1 << 255) - 1

_P = (1 << 255) - 19

#: y of a point of order 8.
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826

#: y of the points of order 8 and less, and the other spellings of 0 and 1. Anybody can make signatures that are
#: valid under such a key, and `cryptography` takes them.
_WEAK_Y = {0, 1, _Y8, _P - _Y8, _P - 1, _P, _P + 1}


def decode(text: str, size: int) -> bytes | None:
    """Return the bytes of base64 text; None unless it is the one way to write ``size`` bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size and encode(data) == text else None


def encode(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def format_key(data: bytes) -> str:
    """Return the line of a public key's bytes."""
    return PREFIX + encode(data)


def is_key(text: object) -> bool:
    """Whether a value is the line of a public key that can be trusted."""
    if not isinstance(text, str) or not text.startswith(PREFIX):
        return False
    data = decode(text.removeprefix(PREFIX), KEY_SIZE)
    return data is not None and int.from_bytes(data, "little") & _Y_BITS not in _WEAK_Y


def check_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return public keys, each once and sorted.

    Raises:
        InputError: one is no public key.
    """
    given = (keys,) if isinstance(keys, str) else tuple(keys)
    for key in given:
        if not is_key(key):
            raise InputError(
                f"{str(key)[:80]!r} is no public key; pass the line that `mpt-edge keys show` prints, {PREFIX}..."
            )
    return tuple(sorted(set(given)))


def is_signature(key: str, signature: bytes, message: bytes) -> bool:
    """Whether a signature of a message was made with a key.

    Raises:
        MissingExtraError: `cryptography` is not installed.
    """
    require("sign", "cryptography")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = decode(key.removeprefix(PREFIX), KEY_SIZE)
    if data is None or not is_key(key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(data).verify(signature, message)
    except InvalidSignature:
        return False
    return True
