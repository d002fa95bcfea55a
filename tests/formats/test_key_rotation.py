"""Rotations of pinned keys: who may sign one, and in which order they count."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpt_edge.errors import CorruptFileError, InputError, SignatureError
from mpt_edge.formats.key_rotation import MAX_SEQUENCE, KeyRotation, PinnedKeys, are_pinned_keys
from mpt_edge.formats.public_keys import encode
from tests.support.signers import signer

ONE, TWO, THREE = (signer(number).public for number in (1, 2, 3))
PINNED = PinnedKeys.of([ONE], 5)
ROTATION = signer().rotate(PinnedKeys.of([TWO, THREE], 6))


def test_document_is_that_of_the_documentation() -> None:
    """As docs/signing.md has it, for other programs."""
    keys = sorted([TWO, THREE])
    message = f"mpt-edge key rotation 1\nkey {ONE}\nsequence 6\nkeys {keys[0]} {keys[1]}\n".encode()
    assert json.loads(ROTATION.to_json()) == {
        "format": "mpt-edge key rotation 1",
        "sequence": 6,
        "keys": keys,
        "signer": ONE,
        "signature": encode(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).sign(message)),
    }


def test_document_is_read_back() -> None:
    assert KeyRotation.parse(ROTATION.to_json().encode(), "r") == ROTATION
    ROTATION.check(PINNED)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text + "\n",
        lambda text: text.replace(": 6", ": 6.0"),
        lambda text: text.replace(": 6", ": true"),
        lambda text: text.replace(": 6", ": -6"),
        lambda text: text.replace(": 6", f": {MAX_SEQUENCE + 1}"),
        lambda text: text.replace(": 6", ": " + "9" * 5000),
        lambda text: text.replace(' "sequence": 6', ' "sequence": 7, "sequence": 6'),
        lambda text: text.replace(' "sequence": 6', ' "other": 1, "sequence": 6'),
        lambda text: text.replace("rotation 1", "rotation 2"),
        lambda text: text.replace("ed25519", "rsa"),
        lambda text: text.replace(json.dumps([*ROTATION.new.keys], indent=4)[1:-1].strip(), ""),
        lambda text: text.replace(TWO, THREE),
        lambda text: text.replace('"signer": "', '"signer": "x'),
        lambda text: text.replace("==", ""),
    ],
)
def test_document_that_is_none(change: Callable[[str], str]) -> None:
    changed = change(ROTATION.to_json())
    assert changed != ROTATION.to_json()
    with pytest.raises(CorruptFileError, match="r is no key rotation; pass the file that `mpt-edge keys rotate` wrote"):
        KeyRotation.parse(changed.encode(), "r")


def test_binary_document() -> None:
    with pytest.raises(CorruptFileError, match="is no key rotation"):
        KeyRotation.parse(bytes(range(256)), "r")


@pytest.mark.parametrize("sequence", [6, 7, MAX_SEQUENCE])
def test_number_must_rise(sequence: int) -> None:
    with pytest.raises(SignatureError, match=f"has the sequence number 6, and the bundle has {sequence}; pass a later"):
        ROTATION.check(replace(PINNED, sequence=sequence))


def test_signer_must_be_pinned() -> None:
    with pytest.raises(SignatureError, match=f"is signed by {ONE}, which the bundle does not pin; pass one that is"):
        ROTATION.check(PinnedKeys.of([TWO], 5))


@pytest.mark.parametrize(
    "forged",
    [
        replace(ROTATION, new=PinnedKeys.of([TWO], 6)),
        replace(ROTATION, new=PinnedKeys.of([TWO, THREE], 7)),
        replace(ROTATION, signer=TWO),
        replace(ROTATION, signature=bytes(64)),
        replace(ROTATION, signature=signer(2).rotate(ROTATION.new).signature),
    ],
)
def test_each_part_is_signed(forged: KeyRotation) -> None:
    with pytest.raises(SignatureError, match=r"the signature of the rotation is wrong: .* did not sign these keys"):
        forged.check(PinnedKeys.of([ONE, TWO], 5))


@pytest.mark.parametrize(
    ("keys", "sequence", "says"),
    [
        ([], 1, "no key is given; pass one at least"),
        ([signer(number).public for number in range(1, 18)], 1, "17 keys are too many; pass 16 at most"),
        ([ONE], -1, "the sequence number -1 cannot be used"),
        ([ONE], MAX_SEQUENCE + 1, "cannot be used; pass one from 0 to"),
        (["ed25519:"], 1, "'ed25519:' is no public key"),
    ],
)
def test_keys_that_cannot_be_pinned(keys: list[str], sequence: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        PinnedKeys.of(keys, sequence)


def test_entries_of_a_manifest() -> None:
    entries = json.loads(json.dumps(PINNED.to_entries()))
    assert are_pinned_keys(entries)
    assert PinnedKeys.parse(entries) == PINNED


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        {},
        {"keys": [ONE]},
        {"keys": [ONE], "sequence": 1, "more": 2},
        {"keys": [ONE, ONE], "sequence": 1},
        {"keys": sorted([ONE, TWO], reverse=True), "sequence": 1},
        {"keys": [], "sequence": 1},
        {"keys": ONE, "sequence": 1},
        {"keys": [1], "sequence": 1},
        {"keys": [ONE], "sequence": True},
        {"keys": [ONE], "sequence": "1"},
        {"keys": [ONE], "sequence": -1},
        {"keys": [ONE], "sequence": 1 << 60},
    ],
)
def test_entries_that_are_none(entries: Any) -> None:
    assert not are_pinned_keys(entries)
