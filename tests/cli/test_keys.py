"""`mpt-edge keys`: key pairs and rotations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mpt_edge.formats.key_rotation import KeyRotation, PinnedKeys
from mpt_edge.formats.public_keys import is_key
from tests.support.commands import run_here
from tests.support.outcomes import done, refused
from tests.support.signers import signer


@pytest.fixture
def key(tmp_path: Path) -> Path:
    done(run_here("keys", "new", tmp_path / "key.pem"))
    return tmp_path / "key.pem"


def test_new_key(tmp_path: Path) -> None:
    public = done(run_here("keys", "new", tmp_path / "key.pem"))
    assert is_key(public.removesuffix("\n"))
    assert done(run_here("keys", "show", tmp_path / "key.pem")) == public
    assert "exists, and a key is never replaced" in refused(run_here("keys", "new", tmp_path / "key.pem"))
    assert done(run_here("keys", "show", tmp_path / "key.pem")) == public


def test_rotation_counts_by_the_time(key: Path, tmp_path: Path) -> None:
    public = done(run_here("keys", "show", key)).strip()
    before = int(time.time())
    done(run_here("keys", "rotate", "--key", key, "--new-key", signer(2).public, "-o", tmp_path / "r.json"))
    rotation = KeyRotation.parse((tmp_path / "r.json").read_bytes(), "r")
    assert rotation.new.keys == (signer(2).public,)
    assert before <= rotation.new.sequence <= time.time()
    rotation.check(PinnedKeys.of([public], before - 1))


def test_rotation_with_a_number_of_its_own(key: Path, tmp_path: Path) -> None:
    new = [signer(number).public for number in (2, 3)]
    options = ["--key", key, "--sequence", 7, "-o", tmp_path / "r.json"]
    printed = done(run_here("keys", "rotate", "--new-key", new[0], "--new-key", new[1], *options))
    assert printed == f"wrote rotation 7 to {', '.join(sorted(new))} into {tmp_path / 'r.json'}\n"
    assert KeyRotation.parse((tmp_path / "r.json").read_bytes(), "r").new == PinnedKeys.of(new, 7)


def test_rotation_to_no_key(key: Path, tmp_path: Path) -> None:
    options = ["--key", key, "-o", tmp_path / "r.json"]
    assert "'mine' is no public key" in refused(run_here("keys", "rotate", "--new-key", "mine", *options))
    assert not (tmp_path / "r.json").exists()
