"""`mpt-edge keys`: key pairs and rotations."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge.formats.key_rotation import KeyRotation, PinnedKeys
from mpt_edge.formats.public_keys import is_key
from tests.support.commands import run_here
from tests.support.outcomes import done, refused
from tests.support.signers import signer

MakeTask = Callable[..., Path]


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
    before = int(time.time() * 1000)
    done(run_here("keys", "rotate", "--key", key, "--new-key", signer(2).public, "-o", tmp_path / "r.json"))
    rotation = KeyRotation.parse((tmp_path / "r.json").read_bytes(), "r")
    assert rotation.new.keys == (signer(2).public,)
    assert before <= rotation.new.sequence <= time.time() * 1000
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


def test_keys_of_a_bundle(folder: Path, key: Path, tmp_path: Path, task_file: MakeTask) -> None:
    public = done(run_here("keys", "show", key)).strip()
    assert done(run_here("keys", "list", "-b", folder)) == ""
    assert "is not signed" in refused(run_here("keys", "pin", public, "-b", folder))
    for name in ("sentiment", "topic", "same"):
        done(run_here("tasks", "remove", name, "-b", folder))
    path = task_file()
    done(run_here("sign", path, "--key", key))
    done(run_here("tasks", "install", path, "-b", folder, "--require-key", public))
    assert done(run_here("keys", "pin", public, "-b", folder)) == f"{folder} pins {public}\n"
    assert done(run_here("keys", "list", "-b", folder)) == f"{public}\n"
    done(run_here("tasks", "verify", "-b", folder, "--require-key", public))
    other = ("--require-key", signer(2).public)
    assert "is not a required key" in refused(run_here("tasks", "verify", "-b", folder, *other))
    assert done(run_here("keys", "unpin", public, "-b", folder)) == f"{folder} pins no keys\n"
    log = [line.split() for line in done(run_here("tasks", "log", "-b", folder)).splitlines()]
    assert [row[1] for row in log[1:4]] == ["keys", "keys", "install"]
    assert log[3][-1] == public.removeprefix("ed25519:")[:12]


def test_rotation_of_a_bundle(folder: Path, key: Path, tmp_path: Path, task_file: MakeTask) -> None:
    public, new = done(run_here("keys", "show", key)).strip(), signer(2).public
    for name in ("sentiment", "topic", "same"):
        done(run_here("tasks", "remove", name, "-b", folder))
    path = task_file()
    done(run_here("sign", path, "--key", key))
    done(run_here("tasks", "install", path, "-b", folder))
    done(run_here("keys", "pin", public, "-b", folder, "--sequence", 3))
    done(run_here("keys", "rotate", "--key", key, "--new-key", new, "-o", tmp_path / "r.json"))
    result = run_here("keys", "apply", tmp_path / "r.json", "-b", folder)
    assert (result.returncode, result.stdout) == (0, f"{folder} pins {new}\n")
    assert "none of the new keys signed fresh; install them again, signed by one." in result.stderr
    assert "which the bundle does not pin" in refused(run_here("keys", "apply", tmp_path / "r.json", "-b", folder))
    assert "is no key rotation" in refused(run_here("keys", "apply", path, "-b", folder))
    assert done(run_here("keys", "list", "-b", folder)) == f"{new}\n"
