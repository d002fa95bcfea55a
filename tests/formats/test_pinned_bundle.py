"""A bundle that pins keys: what it takes, loads and refuses, and how its keys change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge import Bundle, InputError, SignatureError
from mpt_edge.errors import MissingExtraError
from mpt_edge.formats.history import Action
from mpt_edge.formats.key_rotation import PinnedKeys
from mpt_edge.formats.signature import today
from mpt_edge.formats.taskfile import TaskFile
from tests.support.bundles import read_files
from tests.support.signers import sign, signer

MakeTask = Callable[..., Path]
ONE, TWO, THREE = (signer(number).public for number in (1, 2, 3))


@pytest.fixture
def pinned(folder: Path) -> Bundle:
    """Return a bundle without tasks that pins the first key."""
    bundle = Bundle.open(folder)
    for name in list(bundle.task_names):
        bundle.remove(name)
    bundle.pin([ONE], sequence=5)
    return bundle


def keys(bundle: Bundle) -> PinnedKeys | None:
    return Bundle.open(bundle.folder).manifest.keys


def test_signed_task_is_taken_and_its_signer_recorded(pinned: Bundle, task_file: MakeTask) -> None:
    pinned.install_untested(sign(task_file(), 1, today()))
    assert Bundle.open(pinned.folder).task("fresh").signature.key == ONE
    assert pinned.manifest.changes[-1].signer == ONE
    assert mpt_edge.load(pinned.folder).task("fresh")("a good film").label in ("no", "yes")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: path, "is not signed, and a signature is required"),
        (lambda path: sign(path, 2), "is not a required key"),
        (lambda path: sign(path, 1, today() - timedelta(1)), "expired on"),
    ],
)
def test_other_tasks_are_refused_wherever_they_arrive(
    pinned: Bundle, task_file: MakeTask, prepare: Callable[[Path], Path], says: str
) -> None:
    path, before = prepare(task_file()), read_files(pinned.folder)
    with pytest.raises(SignatureError, match=says):
        pinned.install_untested(path)
    with pytest.raises(SignatureError, match=says):
        mpt_edge.load(pinned.folder).add_task(path)
    assert read_files(pinned.folder) == before


def test_one_unsigned_file_among_others(pinned: Bundle, task_file: MakeTask) -> None:
    with pytest.raises(SignatureError):
        pinned.install_untested(sign(task_file("one")), task_file("two"))
    assert pinned.task_names == []


def test_expired_task_that_is_installed_stays_usable(
    pinned: Bundle, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's clock may say anything, and what worked goes on to work."""
    for version in (1, 2):
        pinned.install_untested(sign(task_file(version=version), 1, today()))
    later = today() + timedelta(400)
    monkeypatch.setattr("mpt_edge.formats.bundle_reader.today", lambda: later)
    assert mpt_edge.load(pinned.folder).task("fresh")("a good film").label in ("no", "yes")
    assert pinned.rollback("fresh").version == 1
    with pytest.raises(SignatureError, match="expired"):
        pinned.install_untested(sign(task_file(version=3), 1, today()))


def test_files_that_were_exchanged_are_not_used(folder: Path, task_file: MakeTask) -> None:
    """Not even where the manifest's hashes were exchanged, too."""
    bundle = Bundle.open(folder)
    for name in list(bundle.task_names):
        bundle.remove(name)
    bundle.install_untested(sign(task_file("one")), sign(task_file("two"), 2))
    bundle.manifest = replace(bundle.manifest, keys=PinnedKeys.of([ONE], 1))
    assert bundle.task("one").name == "one"
    with pytest.raises(SignatureError, match=r"'two' is signed by ed25519:.*, which is not a required key"):
        bundle.task("two")


def test_key_of_the_caller(folder: Path, task_file: MakeTask) -> None:
    bundle, before = Bundle.open(folder), read_files(folder)
    for path, says in ((task_file("one"), "is not signed"), (sign(task_file("two")), "is not a required key")):
        with pytest.raises(SignatureError, match=says):
            bundle.install_untested(path, require_keys=[TWO])
    with pytest.raises(InputError, match="'mine' is no public key"):
        bundle.install_untested(task_file("one"), require_keys=["mine"])
    assert read_files(folder) == before
    bundle.install_untested(sign(task_file("two"), 2), require_keys=[ONE, TWO])
    assert bundle.manifest.changes[-1].signer == TWO
    assert keys(bundle) is None


def test_key_of_the_caller_does_not_replace_pinned_ones(pinned: Bundle, task_file: MakeTask) -> None:
    for number in (1, 2):
        with pytest.raises(SignatureError, match="is not a required key"):
            pinned.install_untested(sign(task_file(), number), require_keys=[TWO])


def test_signature_that_nobody_required_is_not_recorded(folder: Path, task_file: MakeTask) -> None:
    bundle = Bundle.open(folder)
    path = sign(task_file())
    signature = TaskFile.load(path).signature
    assert signature is not None
    bundle.install_untested(path)
    assert bundle.manifest.changes[-1].signer is None


def test_bundle_without_keys_needs_no_cryptography(
    folder: Path, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sign(task_file())
    monkeypatch.setattr("mpt_edge.formats.public_keys.require", lambda *_: pytest.fail("it was asked for"))
    Bundle.open(folder).install_untested(path)
    assert mpt_edge.load(folder).task("fresh")


def test_missing_cryptography_is_named(pinned: Bundle, task_file: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sign(task_file())
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"cryptography is not installed; run: pip install 'mpt-edge\[sign\]'"):
        pinned.install_untested(path)


def test_pinning_keeps_what_works(folder: Path, task_file: MakeTask) -> None:
    bundle, before = Bundle.open(folder), read_files(folder)
    with pytest.raises(SignatureError, match="is not signed"):
        bundle.pin([ONE])
    assert read_files(folder) == before
    for name in list(bundle.task_names):
        bundle.remove(name)
    bundle.install_untested(sign(task_file()))
    with pytest.raises(SignatureError, match="is not a required key"):
        bundle.pin([TWO])
    started = int(time.time() * 1000)
    bundle.pin([TWO, ONE])
    now = keys(bundle)
    assert now is not None
    assert now.keys == tuple(sorted([ONE, TWO]))
    assert started <= now.sequence <= time.time() * 1000
    bundle.unpin([TWO])
    assert keys(bundle) == PinnedKeys.of([ONE], now.sequence)
    assert [record.action for record in bundle.manifest.changes[-2:]] == [Action.KEYS, Action.KEYS]


def test_last_key_that_is_unpinned(pinned: Bundle, task_file: MakeTask) -> None:
    with pytest.raises(InputError, match=r"does not pin ed25519:.*; see `mpt-edge keys list`"):
        pinned.unpin([TWO])
    assert pinned.unpin([ONE]) is None
    assert keys(pinned) is None
    pinned.install_untested(task_file())
    with pytest.raises(InputError, match="does not pin"):
        pinned.unpin([ONE])


def test_rotation_is_one_change(pinned: Bundle, task_file: MakeTask) -> None:
    pinned.install_untested(sign(task_file("one")), sign(task_file("two")))
    assert pinned.rotate(signer().rotate(PinnedKeys.of([ONE, TWO], 6))) == []
    assert pinned.manifest.changes[-1].signer == ONE
    pinned.install_untested(sign(task_file("two"), 2))
    assert pinned.rotate(signer(2).rotate(PinnedKeys.of([TWO], 7))) == ["one"]
    assert keys(pinned) == PinnedKeys.of([TWO], 7)
    assert Bundle.open(pinned.folder).task("two").name == "two"
    with pytest.raises(SignatureError, match="is not a required key"):
        Bundle.open(pinned.folder).task("one")
    pinned.install_untested(sign(task_file("one"), 2))
    assert Bundle.open(pinned.folder).task("one").name == "one"


def test_rotations_are_not_replayed(pinned: Bundle) -> None:
    first, second = signer().rotate(PinnedKeys.of([ONE, TWO], 6)), signer(2).rotate(PinnedKeys.of([TWO], 7))
    with pytest.raises(SignatureError, match="which the bundle does not pin"):
        pinned.rotate(second)
    pinned.rotate(first)
    with pytest.raises(SignatureError, match="has the sequence number 6, and the bundle has 6"):
        pinned.rotate(first)
    pinned.rotate(second)
    for old in (first, second):
        before = read_files(pinned.folder)
        with pytest.raises(SignatureError):
            pinned.rotate(old)
        assert read_files(pinned.folder) == before


def test_rotation_of_a_bundle_without_keys(folder: Path) -> None:
    with pytest.raises(InputError, match="pins no keys to replace; pin some with `mpt-edge keys pin`"):
        Bundle.open(folder).rotate(signer().rotate(PinnedKeys.of([TWO], 6)))


def test_running_model_sees_new_keys(pinned: Bundle, task_file: MakeTask, tmp_path: Path) -> None:
    pinned.install_untested(sign(task_file("one")), sign(task_file("two")))
    model = mpt_edge.load(pinned.folder)
    model.task("one")
    pinned.rotate(signer().rotate(PinnedKeys.of([TWO], 6)))
    assert model.task("one")("a good film")  # it is selected and stays in use
    with pytest.raises(SignatureError, match="is not a required key"):
        model.task("two")


def test_bundle_that_is_copied_keeps_its_keys(pinned: Bundle, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(pinned.folder, tmp_path / "copy"))
    assert keys(copy) == PinnedKeys.of([ONE], 5)
