"""Forge signatures of tasks and rotations of keys, for a bundle that pins a key.

python attacks/forged_signatures.py

Prints one line a kind of forgery. `--count 200` takes a second.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attacks.common import Tally
from attacks.fault_bundle import Place
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats import tensors
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.key_rotation import KeyRotation, PinnedKeys
from mpt_edge.formats.public_keys import format_key
from mpt_edge.formats.signature import Signature, signed_message, today
from mpt_edge.formats.signing import Signer
from mpt_edge.formats.taskfile import TaskFile

#: Order of the group that signatures are numbers of.
_ORDER = (1 << 252) + 27742317777372353535851937790883648493

#: Forged bytes, by what was forged.
Forgeries = Iterator[tuple[str, bytes]]

_SEQUENCE = 5


class Target:
    """A bundle that pins one key, and files that this key signed."""

    def __init__(self, folder: Path, count: int) -> None:
        """Build the bundle in an empty folder; ``count`` is the number of random forgeries of a kind."""
        self.count, self.random = count, np.random.default_rng(0)
        self._keys = [Ed25519PrivateKey.generate() for _ in range(3)]
        self.owner, self.other, self.next = map(Signer, self._keys)
        place = Place(folder)
        self.bundle = Bundle.open(place.copy())
        for name in list(self.bundle.task_names):
            self.bundle.remove(name)
        self.bundle.pin([self.owner.public], sequence=_SEQUENCE)
        self.unsigned = [place.file(name, version).read_bytes() for name in ("alpha", "beta") for version in (3, 4)]
        self.signed = [self.owner.sign_task(data, "genuine", self.day(30)) for data in self.unsigned]

    @staticmethod
    def day(after: int) -> date:
        """Return a day some days from today."""
        return today() + timedelta(after)

    def sign_as_owner(self, message: bytes) -> bytes:
        """Return the owner's signature of a message of another kind."""
        return self._keys[0].sign(message)

    def takes_task(self, data: bytes) -> None:
        """Let a task file arrive. Raises MptEdgeError where it is refused."""
        task = TaskFile.parse(data, "arriving")
        self.bundle.check_fit(task)
        self.bundle.check_signer(task, is_new=True)

    def takes_rotation(self, data: bytes) -> None:
        """Let a rotation arrive. Raises MptEdgeError where it is refused."""
        pinned = self.bundle.manifest.keys
        assert pinned is not None
        KeyRotation.parse(data, "arriving").check(pinned)


def flipped_bits(target: Target) -> Forgeries:
    """Change bits of signed files, one to three at a time."""
    for number in range(target.count):
        data = bytearray(target.signed[number % len(target.signed)])
        for bit in target.random.choice(len(data) * 8, 1 + number % 3, replace=False):
            data[bit // 8] ^= 1 << bit % 8
        yield "bits", bytes(data)


def cut_and_longer(target: Target) -> Forgeries:
    """Cut signed files, and add to them."""
    data = target.signed[0]
    for length in target.random.integers(0, len(data), target.count // 10):
        yield "cut", data[:length]
    for length in range(1, 33):
        yield "longer", data + bytes(length)


def swapped(target: Target) -> Forgeries:
    """Move each signature to each other file."""
    for one in target.signed:
        for other in target.signed:
            if one is not other:
                yield "signature of another file", with_entry(other, entry(one))


def stripped(target: Target) -> Forgeries:
    """Take signatures away, or leave parts of them."""
    for data in target.unsigned:
        yield "no signature", data
        for text in ("", " ", "null", "none", f"{target.owner.public} never ", target.owner.public):
            yield "no more than a part", with_entry(data, text)
        yield "no value", with_entry(data, f"{target.owner.public} never {base64.b64encode(bytes(64)).decode()}")


def rehashed(target: Target) -> Forgeries:
    """Change the content of signed files, and make the hash anew."""
    for number in range(target.count // 10):
        arrays, metadata = tensors.parse(target.signed[number % len(target.signed)], "genuine")
        u = arrays["u"].copy()
        u[number % u.size] += np.float16(0.25 * (1 + number % 5))
        yield "vector", tensors.serialize(arrays | {"u": u}, metadata)
    arrays, metadata = tensors.parse(target.signed[0], "genuine")
    for key in sorted(set(metadata) - {"sha256", "signature", "format", "backbone", "tokenizer"}):
        yield f"entry {key}", tensors.serialize(arrays, metadata | {key: metadata[key] + "1"})
        yield f"no {key}", tensors.serialize(arrays, {each: metadata[each] for each in metadata if each != key})
    yield "new entry", tensors.serialize(arrays, metadata | {"training": '{"by":"me"}'})


def other_bytes(target: Target) -> Forgeries:
    """Say the same in other bytes, or twice with different values."""
    for data in target.signed:
        size = int.from_bytes(data[:8], "little")
        header, rest = data[8 : 8 + size].decode(), data[8 + size :]
        for old, new in {
            '"task":"': '"task":"beta2","task":"',
            '"version":"': '"version":"9","version":"',
            '"signature":"': f'"signature":"{entry(target.signed[1])}","signature":"',
            '"u":{': '"u":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},"u":{',
            '{"__metadata__":': '{"__metadata__":{"task":"beta2"},"__metadata__":',
            '"task":': '"task": ',
            "alpha": "\\u0061lpha",
        }.items():
            changed = header.replace(old, new).encode()
            if changed.decode() != header:
                yield "twice or otherwise", len(changed).to_bytes(8, "little") + changed + rest


def other_spellings(target: Target) -> Forgeries:
    """Write the signature itself otherwise."""
    for data in target.signed:
        text = entry(data)
        key, day, value = text.split(" ")
        raw = base64.b64decode(value)
        larger = (int.from_bytes(raw[32:], "little") + _ORDER).to_bytes(32, "little")
        yield "S + L", with_entry(data, f"{key} {day} {base64.b64encode(raw[:32] + larger).decode()}")
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
            if value[-3] != last:
                yield "last bits", with_entry(data, f"{key} {day} {value[:-3]}{last}==")
        for changed in (text + "\n", text + " ", " " + text, text.replace(" ", "  "), text.rstrip("="), text + "="):
            yield "spaces", with_entry(data, changed)


def other_keys(target: Target) -> Forgeries:
    """Sign with a key that is not pinned, and say that it was the pinned one."""
    for data in target.unsigned:
        mine = target.other.sign_task(data, "mine")
        yield "own key", mine
        yield (
            "own key, named as pinned",
            with_entry(data, entry(mine).replace(target.other.public, target.owner.public)),
        )
        yield (
            "pinned key, named as own",
            with_entry(
                data, entry(target.owner.sign_task(data, "x")).replace(target.owner.public, target.other.public)
            ),
        )


def weak_keys(target: Target) -> Forgeries:
    """Sign for keys whose private key nobody needs, and rotate to them."""
    for y in (0, 1, (1 << 255) - 20, (1 << 255) - 19, (1 << 255) - 18):
        for sign in (0, 1):
            key = format_key((y | sign << 255).to_bytes(32, "little"))
            value = (1).to_bytes(32, "little") + bytes(32)
            for data in target.unsigned:
                yield "weak key", with_entry(data, str(Signature(key, None, value, "")))


def confused_kinds(target: Target) -> Forgeries:
    """Use what the owner signed for another purpose as the signature of a task."""
    digest = tensors.parse(target.unsigned[0], "x")[1]["sha256"]
    owner, rotation = target.owner, target.owner.rotate(PinnedKeys.of([target.next.public], _SEQUENCE + 1))
    messages = {
        "rotation": KeyRotation.message(rotation.new, owner.public),
        "bare hash": digest.encode(),
        "hash in bytes": bytes.fromhex(digest),
        "file": target.unsigned[0],
        "other domain": signed_message(owner.public, None, digest).replace(b"signature 1", b"signature 2"),
        "no domain": signed_message(owner.public, None, digest).partition(b"\n")[2],
    }
    for kind, message in messages.items():
        signature = Signature(owner.public, None, target.sign_as_owner(message), digest)
        yield kind, with_entry(target.unsigned[0], str(signature))


def expired(target: Target) -> Forgeries:
    """Install after the last day, and move the last day."""
    for days in range(1, 1 + min(target.count, 400)):
        data = target.owner.sign_task(target.unsigned[days % 4], "old", target.day(-days))
        yield "expired", data
        text = entry(data)
        for later in (target.day(1).isoformat(), "never"):
            yield "later day", with_entry(data, text.replace(target.day(-days).isoformat(), later))


def flipped_rotations(target: Target) -> Forgeries:
    """Change bits of a signed rotation."""
    data = rotate(target, target.owner, _SEQUENCE + 1)
    for bit in target.random.integers(0, len(data) * 8, target.count):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield "bits", bytes(changed)


def forged_rotations(target: Target) -> Forgeries:
    """Replay rotations, sign them with other keys, and exchange their parts."""
    for sequence in range(_SEQUENCE + 1):
        yield "old number", rotate(target, target.owner, sequence)
    mine = KeyRotation.parse(rotate(target, target.other, _SEQUENCE + 1), "mine")
    theirs = KeyRotation.parse(rotate(target, target.owner, _SEQUENCE + 1), "theirs")
    for kind, forged in {
        "own key": mine,
        "own key, named as pinned": replace(mine, signer=target.owner.public),
        "own keys": replace(theirs, new=PinnedKeys.of([target.other.public], _SEQUENCE + 1)),
        "more keys": replace(theirs, new=PinnedKeys.of([*theirs.new.keys, target.other.public], _SEQUENCE + 1)),
        "higher number": replace(theirs, new=replace(theirs.new, sequence=_SEQUENCE + 2)),
        "signature of a task": replace(theirs, signature=base64.b64decode(entry(target.signed[0]).split(" ")[2])),
    }.items():
        yield kind, forged.to_json().encode()
    yield "twice", theirs.to_json().replace('"keys"', '"keys": [], "keys"', 1).encode()
    yield "spaces", theirs.to_json().encode() + b" "


TASKS: dict[str, Callable[[Target], Forgeries]] = {
    "flipped bits": flipped_bits,
    "cut and longer": cut_and_longer,
    "swapped signatures": swapped,
    "stripped signatures": stripped,
    "changed and hashed again": rehashed,
    "other bytes": other_bytes,
    "other spellings": other_spellings,
    "other keys": other_keys,
    "weak keys": weak_keys,
    "confused kinds": confused_kinds,
    "expired": expired,
}
ROTATIONS: dict[str, Callable[[Target], Forgeries]] = {
    "flipped bits of rotations": flipped_rotations,
    "forged rotations": forged_rotations,
}


def main(count: Annotated[int, typer.Option(min=10, help="Random forgeries of a kind.")] = 20_000) -> None:
    """Try all forgeries, and exit with 1 if any was taken, or anything genuine refused."""
    folder = Path(tempfile.mkdtemp(prefix="forged-"))
    broken = 0
    try:
        target = Target(folder / "place", count)
        genuine = rotate(target, target.owner, _SEQUENCE + 1)
        for kinds, takes, good in (
            (TASKS, target.takes_task, target.signed),
            (ROTATIONS, target.takes_rotation, [genuine]),
        ):
            for name, kind in kinds.items():
                started = time.perf_counter()
                tally = attempt(name, kind(target), takes, good)
                broken += tally.counts["broken"]
                print(f"{tally} ({time.perf_counter() - started:.0f} s)", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if broken else 0)


def attempt(name: str, forgeries: Forgeries, takes: Callable[[bytes], None], genuine: list[bytes]) -> Tally:
    """Try forgeries, which must be refused in a sentence, and then what is genuine, which must not."""
    tally = Tally(name)
    for kind, data in forgeries:
        try:
            takes(data)
        except MptEdgeError:
            tally.add("refused")
        except Exception as error:  # the attack is about foreign errors, too
            tally.add(kind, repr(error))
        else:
            tally.add(kind, "taken")
    for data in genuine:
        try:
            takes(data)
        except MptEdgeError as error:
            tally.add("genuine", str(error))
        else:
            tally.add("genuine and taken")
    return tally


def rotate(target: Target, signer: Signer, sequence: int) -> bytes:
    """Return a rotation to the next key."""
    return signer.rotate(PinnedKeys.of([target.next.public], sequence)).to_json().encode()


def entry(data: bytes) -> str:
    """Return the signature entry of a file."""
    return tensors.parse(data, "genuine")[1][tensors.SIGNATURE]


def with_entry(data: bytes, text: str) -> bytes:
    """Return a file with another signature entry."""
    arrays, metadata = tensors.parse(data, "genuine")
    return tensors.serialize(arrays, metadata | {tensors.SIGNATURE: text})


if __name__ == "__main__":
    typer.run(main)
