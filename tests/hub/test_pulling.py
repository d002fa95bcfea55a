"""Folders made of what a hub has: whole, verified, and of regular files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, MismatchError, SignatureError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import MANIFEST, FileEntry
from mpt_edge.hub.pulling import pull_bundle, pull_tasks
from mpt_edge.hub.repositories import Repository
from tests.hub.test_contents import FLOAT32
from tests.hub.test_fetching import NAME, put_both
from tests.support.bundles import read_files
from tests.support.hub import COMMIT, Hub, hash_of
from tests.support.signers import signer

REPOSITORY = Repository(NAME)


def test_whole_bundle(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.put(NAME, tiny_bundle)
    output = tmp_path / "bundles" / "app"
    pulled = pull_bundle(REPOSITORY, output)
    assert read_files(output) == read_files(tiny_bundle)
    assert not any(path.is_symlink() for path in output.rglob("*"))
    bundle = Bundle.open(output, digest=pulled.digest)
    bundle.verify_files()
    assert (pulled.commit, pulled.files) == (COMMIT, len(bundle.manifest.files))
    assert pulled.size == sum((output / name).stat().st_size for name in bundle.manifest.files)
    shutil.rmtree(tmp_path / "cache")
    assert mpt_edge.load(output, threads=1).task("topic")("a ball").label
    assert [path.name for path in output.parent.iterdir()] == ["app"]


def test_one_precision_is_a_bundle_of_its_own(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    put_both(hub, tiny_bundle)
    both = pull_bundle(REPOSITORY, tmp_path / "both")
    exact = pull_bundle(REPOSITORY, tmp_path / "exact", precision="float32", digest=both.digest)
    assert exact.digest == Bundle.open(tiny_bundle).digest != both.digest
    small = Bundle.open(tmp_path / "exact")
    small.verify_files()
    assert small.precisions == ["float32"]
    assert not FLOAT32 - set(small.manifest.files)
    with pytest.raises(MismatchError, match="is required"):
        pull_bundle(REPOSITORY, tmp_path / "other", digest=exact.digest)
    assert not (tmp_path / "other").exists()


def test_installed_tasks_come_to_their_own_names(
    hub: Hub, folder: Path, tmp_path: Path, task_file: Callable[..., Path]
) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file("topic", version=2))
    hub.put(NAME, folder)
    pull_bundle(REPOSITORY, tmp_path / "app")
    pulled = Bundle.open(tmp_path / "app")
    assert pulled.digest == bundle.digest
    assert pulled.task("topic").version == 2
    assert not (tmp_path / "app" / "installed").exists()
    with pytest.raises(MismatchError, match="was installed in version 2"):
        pulled.install_untested(task_file("topic"))


def test_broken_connection_is_continued(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    stored = hub.put(NAME, tiny_bundle)
    weights = len(stored.files()["onnx/model.onnx_data"])
    hub.cut = weights // 2
    pull_bundle(REPOSITORY, tmp_path / "app")
    assert hub.cut == 0  # it was cut
    assert read_files(tmp_path / "app") == read_files(tiny_bundle)


def test_damage_leaves_nothing(hub: Hub, tiny_bundle: Path, tmp_path: Path, cache: Path) -> None:
    hub.put(NAME, tiny_bundle)
    pull_bundle(REPOSITORY, tmp_path / "app")
    before = read_files(tmp_path / "app")
    tokenizer = cache / "models--owner--tiny" / "snapshots" / COMMIT / "tokenizer.json"
    blob = tokenizer.resolve()
    blob.write_bytes(blob.read_bytes()[::-1])
    for output, force in ((tmp_path / "new", False), (tmp_path / "app", True)):
        with pytest.raises(CorruptFileError, match=f"delete {blob} from the hub's cache, pull again"):
            pull_bundle(REPOSITORY, output, force=force)
    assert read_files(tmp_path / "app") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "cache", "here"]
    blob.unlink()
    tokenizer.unlink()
    pull_bundle(REPOSITORY, tmp_path / "new")


def test_occupied_folders(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.put(NAME, tiny_bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis.txt', which is no part of a bundle"):
        pull_bundle(REPOSITORY, tmp_path / "mine", force=True)
    pull_bundle(REPOSITORY, tmp_path / "app")
    hub.forget()
    with pytest.raises(InputError, match="already holds a bundle; pass --force to replace it"):
        pull_bundle(REPOSITORY, tmp_path / "app")
    assert hub.requests == []
    Bundle.open(tmp_path / "app").remove("topic")
    pull_bundle(REPOSITORY, tmp_path / "app", force=True, offline=True)
    assert "topic" in Bundle.open(tmp_path / "app").task_names


def test_pinned_keys_stay(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.put(NAME, tiny_bundle)
    pull_bundle(REPOSITORY, tmp_path / "app")
    bundle = Bundle.open(tmp_path / "app")
    for name in bundle.task_names:
        bundle.remove(name)
    bundle.pin([signer().public])
    with pytest.raises(SignatureError, match=f"pins keys, and {NAME} does not pin the same"):
        pull_bundle(REPOSITORY, tmp_path / "app", force=True)
    assert Bundle.open(tmp_path / "app").manifest.keys


def test_bundle_whose_parts_do_not_fit(hub: Hub, folder: Path, tmp_path: Path, task_file: Callable[..., Path]) -> None:
    """Hashes that agree are not enough."""
    files = hub.put(NAME, folder).files()
    files["tasks/topic.safetensors"] = data = task_file("other").read_bytes()
    manifest = Bundle.open(folder).manifest
    entry = FileEntry(sha256=hash_of(data), size=len(data))
    files[MANIFEST] = replace(manifest, files={**manifest.files, "tasks/topic.safetensors": entry}).to_json().encode()
    with pytest.raises(CorruptFileError, match="holds the task 'other'"):
        pull_bundle(REPOSITORY, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_tasks_alone(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    stored = hub.put(NAME, tiny_bundle)
    pulled = pull_tasks(REPOSITORY, ["topic", "same", "topic"], tmp_path / "run")
    assert [(each.file.name, each.commit) for each in pulled] == [("topic", COMMIT), ("same", COMMIT)]
    assert [each.path for each in pulled] == [tmp_path / f"run/tasks/{name}.safetensors" for name in ("topic", "same")]
    assert pulled[0].path.read_bytes() == stored.files()["tasks/topic.safetensors"]
    assert set(hub.fetched) == {"tasks/topic.safetensors", "tasks/same.safetensors"}
    pull_tasks(REPOSITORY, ["topic"], tmp_path / "run", offline=True)  # the same file again
    pulled[0].path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"topic.safetensors is another file; pass --force to replace it"):
        pull_tasks(REPOSITORY, ["sentiment", "topic"], tmp_path / "run")
    assert not (tmp_path / "run/tasks/sentiment.safetensors").exists()
    pull_tasks(REPOSITORY, ["topic"], tmp_path / "run", force=True)
    assert pulled[0].path.read_bytes() == stored.files()["tasks/topic.safetensors"]
