"""Private keys: their files, and what they sign."""

from __future__ import annotations

import base64
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.signing import Signer
from mpt_edge.formats.taskfile import TaskFile
from tests.support.places import ROOT
from tests.support.signers import sign, signer

MakeTask = Callable[..., Path]


def refuse() -> str:
    raise AssertionError("nobody is asked for the passphrase of a key without one")


def test_new_key_is_read_back_and_only_by_this_user(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    created = Signer.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load(path, refuse).public == created.public
    assert Signer.create(tmp_path / "other.pem").public != created.public


def test_key_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("mine")
    with pytest.raises(InputError, match=r"key.pem exists, and a key is never replaced; name another file"):
        Signer.create(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_text() == "mine"


def test_encrypted_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    created = Signer.create(path, "open sesame ü")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert Signer.load(path, lambda: "open sesame ü").public == created.public
    for wrong in ("", "open sesame"):
        with pytest.raises(InputError, match="cannot be read as a private key in PEM; check the passphrase"):
            Signer.load(path, lambda wrong=wrong: wrong)


def test_key_of_openssl(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs openssl")
    (tmp_path / "key.pem").write_bytes(made.stdout)
    public = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER"], input=made.stdout, capture_output=True, check=True
    )
    assert (
        Signer.load(tmp_path / "key.pem", refuse).public == f"ed25519:{base64.b64encode(public.stdout[-32:]).decode()}"
    )


@pytest.mark.parametrize("data", [b"", b"text", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_file_that_is_no_key(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as a private key in PEM; make one with `mpt-edge keys new`"):
        Signer.load(tmp_path / "key.pem", refuse)


def test_key_of_another_kind(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*kinds))
    with pytest.raises(InputError, match="is a key of another kind than Ed25519"):
        Signer.load(tmp_path / "key.pem", refuse)


def test_large_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(bytes(20_000))
    for name in ("key.pem", "none.pem"):
        with pytest.raises(CorruptFileError, match=name):
            Signer.load(tmp_path / name, refuse)


def test_signing_changes_nothing_but_the_signature(task_file: MakeTask) -> None:
    path = task_file()
    plain = path.read_bytes()
    signed = signer().sign_task(plain, "x", date(2030, 1, 1))
    arrays, metadata = tensors.parse(signed, "x")
    del metadata["signature"]
    assert tensors.serialize(arrays, metadata) == plain
    assert len(signed) - len(plain) < 180
    assert TaskFile.parse(signed, "x").signature.is_genuine


def test_new_signature_replaces_the_old_one(task_file: MakeTask) -> None:
    once = sign(task_file(), 1).read_bytes()
    again = signer(2).sign_task(once, "x")
    assert TaskFile.parse(again, "x").signature.key == signer(2).public
    assert signer(1).sign_task(again, "x") == once


def test_entries_of_later_versions_are_kept_and_signed(task_file: MakeTask) -> None:
    arrays, metadata = tensors.parse(task_file().read_bytes(), "x")
    signed = signer().sign_task(tensors.serialize(arrays, metadata | {"new": "entry"}), "x")
    assert tensors.parse(signed, "x")[1]["new"] == "entry"
    forged = tensors.serialize(*tensors.parse(signed, "x")).replace(b'"new":"entry"', b'"new":"other"')
    with pytest.raises(CorruptFileError, match="is damaged"):
        TaskFile.parse(forged, "x")


@pytest.mark.parametrize("data", [b"", b"text"])
def test_no_task_file(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match="x is not a readable safetensors file"):
        signer().sign_task(data, "x")


def test_prompt_is_not_signed(tiny_vectors: Path) -> None:
    with pytest.raises(CorruptFileError, match="is not a task file"):
        signer().sign_task((tiny_vectors / "prompts" / "mpt.safetensors").read_bytes(), "x")


def test_signed_tasks_with_few_labels_stay_below_4_kilobytes() -> None:
    files = [path.read_bytes() for path in (ROOT / "models" / "minilm-l6" / "tasks").glob("*.safetensors")]
    few = [data for data in files if len(TaskFile.parse(data, "x").labels) <= 10]
    assert len(few) >= 5
    assert max(len(signer().sign_task(data, "x", date(2030, 1, 1))) for data in few) <= 4096
