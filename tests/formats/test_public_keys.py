"""Public keys: one spelling each, none that anybody can sign for, and signatures as RFC 8032 has them."""

from __future__ import annotations

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mpt_edge.errors import InputError
from mpt_edge.formats.public_keys import check_keys, decode, encode, format_key, is_key, is_signature
from tests.support.signers import signer

#: RFC 8032, section 7.1, test 2.
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNED = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
KEY = "ed25519:" + base64.b64encode(PUBLIC).decode()

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493


def test_signature_of_the_rfc() -> None:
    assert format_key(PUBLIC) == KEY
    assert is_signature(KEY, SIGNED, b"\x72")
    assert not is_signature(KEY, SIGNED, b"\x73")
    assert not is_signature(signer().public, SIGNED, b"\x72")
    for bit in range(512):
        changed = bytearray(SIGNED)
        changed[bit // 8] ^= 1 << bit % 8
        assert not is_signature(KEY, bytes(changed), b"\x72")


def test_signature_has_one_spelling() -> None:
    """S and S + L are the same number to a check that reduces it."""
    s = int.from_bytes(SIGNED[32:], "little") + ORDER
    assert not is_signature(KEY, SIGNED[:32] + s.to_bytes(32, "little"), b"\x72")
    assert not is_signature(KEY, SIGNED + b"\0", b"\x72")
    assert not is_signature(KEY, b"", b"\x72")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        KEY.removeprefix("ed25519:"),
        KEY.upper(),
        KEY + "\n",
        KEY + "=",
        KEY.rstrip("="),
        KEY[:-2] + "1=",  # other bits that base64 drops
        KEY[:20] + "\n" + KEY[20:],
        KEY.replace("+", "-").replace("/", "_").replace("Q", "-"),
        "rsa:" + KEY.removeprefix("ed25519:"),
        KEY[:-4] + "AAAAAA==",
        None,
        b"ed25519:",
        7,
    ],
)
def test_no_public_key(text: object) -> None:
    assert not is_key(text)
    with pytest.raises(InputError, match=r"is no public key; pass the line that `mpt-edge keys show` prints"):
        check_keys([KEY, text])  # type: ignore[list-item]


def test_keys_are_sorted_and_once() -> None:
    keys = [signer(number).public for number in (3, 1, 2, 1)]
    assert check_keys(keys) == tuple(sorted(set(keys)))
    assert check_keys(KEY) == (KEY,)


def test_base64_has_one_spelling() -> None:
    assert decode(encode(SIGNED), 64) == SIGNED
    assert decode(encode(SIGNED), 63) is None
    for end in "BCDEFGHIJKLMNOP":  # the last four bits before the padding mean nothing
        assert base64.b64decode("A" * 85 + end + "==") == bytes(63) + bytes([0])
        assert decode("A" * 85 + end + "==", 64) is None


def small_order_keys() -> list[bytes]:
    """Return all spellings of the points of -x² + y² = 1 + d x² y² whose eightfold is the neutral element.

    Twice a point of order 8 has y = 0, so its x² = -y², and y² solves d t² + 2 t = 1.
    """
    d = -121665 * pow(121666, -1, P) % P
    ys = {0, 1, P - 1}
    root = square_root(1 + d)
    for sign in (1, -1):
        y = square_root((sign * root - 1) * pow(d, -1, P) % P)
        ys |= set() if y is None else {y, P - y}
    ys |= {y + P for y in ys if y + P < 2**255}
    return [(y | sign << 255).to_bytes(32, "little") for y in sorted(ys) for sign in (0, 1)]


def square_root(a: int) -> int | None:
    root = pow(a, (P + 3) // 8, P)
    if root * root % P != a % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    return root if root * root % P == a % P else None


def test_keys_that_anybody_signs_for_are_none() -> None:
    keys = small_order_keys()
    assert len({key[:31] + bytes([key[31] & 127]) for key in keys}) == 7
    forged = 0
    for key in keys:
        assert not is_key(format_key(key))
        assert not is_signature(format_key(key), (1).to_bytes(32, "little") + bytes(32), b"any")
        forged += can_be_forged(key)
    assert forged >= 8  # the library takes them; those written as p and p + 1 are up to it


def can_be_forged(key: bytes) -> bool:
    """Whether the library takes a signature that was made without a private key."""
    try:
        public = Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        return False
    for number in range(200):
        try:
            public.verify((1).to_bytes(32, "little") + bytes(32), str(number).encode())
        except InvalidSignature:
            continue
        return True
    return False
