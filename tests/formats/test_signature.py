"""Signatures of task files: what they cover, how they are spelled, and when they count."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpt_edge.errors import CorruptFileError, SignatureError
from mpt_edge.formats import tensors
from mpt_edge.formats.public_keys import encode
from mpt_edge.formats.signature import Signature, check_signature, signed_message, today
from mpt_edge.formats.taskfile import TaskFile
from tests.support.signers import sign, signer

MakeTask = Callable[..., Path]
DAY = date(2027, 6, 30)
KEY = signer().public


def metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    entries: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return entries


def read(path: Path) -> Signature:
    signature = TaskFile.load(path).signature
    assert signature is not None
    return signature


@pytest.mark.parametrize(("expires", "day"), [(None, "never"), (DAY, "2027-06-30")])
def test_entry_and_message_are_those_of_the_documentation(task_file: MakeTask, expires: date | None, day: str) -> None:
    """As docs/signing.md has it, for other programs."""
    entries = metadata(sign(task_file(), 1, expires))
    key, stated, signature = entries["signature"].split(" ")
    message = f"mpt-edge task signature 1\nkey {KEY}\nexpires {day}\nsha256 {entries['sha256']}\n".encode()
    assert (key, stated) == (KEY, day)
    assert signature == encode(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).sign(message))


def test_message_of_one_is_not_that_of_another() -> None:
    facts = [(KEY, None, "a" * 64), (KEY, DAY, "a" * 64), (KEY, DAY, "b" * 64), (signer(2).public, DAY, "a" * 64)]
    assert len({signed_message(*each) for each in facts}) == len(facts)


def test_what_was_read_is_written_alike(task_file: MakeTask) -> None:
    path = sign(task_file(), 1, DAY)
    assert str(read(path)) == metadata(path)["signature"]
    assert read(path).is_genuine
    assert (read(path).key, read(path).expires) == (KEY, DAY)


def test_unsigned_file_has_none(task_file: MakeTask) -> None:
    assert TaskFile.load(task_file()).signature is None


def test_signature_does_not_outlive_a_change(task_file: MakeTask, tmp_path: Path) -> None:
    task = TaskFile.load(sign(task_file()))
    task.save(tmp_path / "again")
    assert "signature" not in metadata(tmp_path / "again")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text + " ",
        lambda text: " " + text,
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(" ", "\t"),
        lambda text: text + "\n",
        lambda text: text.replace("2027-06-30", "20270630"),
        lambda text: text.replace("2027-06-30", "2027-W26-3"),
        lambda text: text.replace("2027-06-30", "2027-6-30"),
        lambda text: text.replace("2027-06-30", "2027-02-30"),
        lambda text: text.replace("2027-06-30", "Never"),
        lambda text: text.replace("ed25519:", "ED25519:"),
        lambda text: text[:-1],
        lambda text: text[:-3] + chr(ord(text[-3]) + 1) + "==",
        lambda text: text.rpartition(" ")[0],
        lambda text: "x" * 100_000,
    ],
)
def test_entry_that_is_no_signature(task_file: MakeTask, change: Callable[[str], str]) -> None:
    path = sign(task_file(), 1, DAY)
    arrays, entries = tensors.parse(path.read_bytes(), "x")
    path.write_bytes(tensors.serialize(arrays, entries | {"signature": change(entries["signature"])}))
    with pytest.raises(CorruptFileError, match=r"fresh.safetensors has a signature that cannot be read; sign it"):
        TaskFile.load(path)


def test_required_key(task_file: MakeTask) -> None:
    signature = read(sign(task_file()))
    check_signature("fresh", signature, [signer(2).public, KEY])
    with pytest.raises(SignatureError, match="'fresh' is not signed, and a signature is required; install a file"):
        check_signature("fresh", None, [KEY])
    with pytest.raises(SignatureError, match=f"is signed by {KEY}, which is not a required key; install a file that"):
        check_signature("fresh", signature, [signer(2).public])
    with pytest.raises(SignatureError, match="is not a required key"):
        check_signature("fresh", signature, [])


@pytest.mark.parametrize("field", ["key", "expires", "value", "digest"])
def test_each_part_is_signed(task_file: MakeTask, field: str) -> None:
    signature = read(sign(task_file(), 1, DAY))
    other = Signature(signer(2).public, DAY + timedelta(1), bytes(64), "0" * 64)
    forged = Signature(**vars(signature) | {field: getattr(other, field)})
    with pytest.raises(SignatureError, match=r"is wrong: ed25519:.* did not sign this content; fetch it again"):
        check_signature("fresh", forged, [KEY, other.key])


def test_last_day_counts_and_the_next_does_not(task_file: MakeTask) -> None:
    signature = read(sign(task_file(), 1, DAY))
    check_signature("fresh", signature, [KEY], DAY)
    check_signature("fresh", signature, [KEY])
    message = "expired on 2027-06-30, and this device's clock says 2027-07-01; install a file that is signed anew"
    with pytest.raises(SignatureError, match=message):
        check_signature("fresh", signature, [KEY], DAY + timedelta(1))
    check_signature("fresh", read(sign(task_file())), [KEY], date.max)


def test_today_is_in_utc() -> None:
    before = datetime.now(UTC).date()
    assert before <= today() <= datetime.now(UTC).date()
