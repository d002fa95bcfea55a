"""Bundles and tasks in the hub's cache: what is fetched, and what is refused before it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
from huggingface_hub import constants

import mpt_edge
from mpt_edge.errors import (
    BundleNotFoundError,
    CorruptFileError,
    InputError,
    MismatchError,
    MissingExtraError,
    UnknownTaskError,
)
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import MANIFEST, MAX_MANIFEST
from mpt_edge.hub.fetching import fetch_bundle, fetch_task
from mpt_edge.hub.repositories import Repository
from tests.hub.test_contents import FLOAT32, INT8, with_int8
from tests.support.hub import COMMIT, WRITER, Hub

NAME = "owner/tiny"
OTHER = "f" * 40


def put_both(hub: Hub, bundle: Path) -> None:
    """Store the bundle with a second graph, which reads weights of its own."""
    files = hub.put(NAME, bundle).files()
    graph = onnx.load(bundle / "onnx/model.onnx", load_external_data=False)
    for entry in (each for tensor in graph.graph.initializer for each in tensor.external_data):
        entry.value = "model_quantized.onnx_data" if entry.key == "location" else entry.value
    weights = files["onnx/model.onnx_data"] + b"more"
    added = {"onnx/model_quantized.onnx": graph.SerializeToString(), "onnx/model_quantized.onnx_data": weights}
    files |= added
    hub.repositories[NAME].commits[COMMIT] = files
    files[MANIFEST] = with_int8(Bundle.open(bundle).manifest, added).to_json().encode()


def test_load_by_a_name(hub: Hub, tiny_bundle: Path, cache: Path) -> None:
    put_both(hub, tiny_bundle)
    model = mpt_edge.load(NAME, threads=1)
    expected = mpt_edge.load(tiny_bundle, threads=1)
    assert model.task("sentiment")("a witty film") == expected.task("sentiment")("a witty film")
    assert model.bundle.folder.is_relative_to(cache)
    assert model.bundle.folder.name == COMMIT
    assert set(hub.fetched) == {MANIFEST, *expected.bundle.manifest.files}  # and no int8
    assert len(hub.fetched) == len(set(hub.fetched))
    hub.forget()
    assert mpt_edge.load(f"hf://{NAME}", revision="main", threads=1).precision == "float32"
    assert hub.fetched == []
    assert {method for method, _ in hub.requests} == {"HEAD"}  # only where the branch is now


def test_one_precision(hub: Hub, tiny_bundle: Path) -> None:
    put_both(hub, tiny_bundle)
    fetched = fetch_bundle(Repository(NAME), precision="int8")
    assert fetched.precision == "int8"
    assert not FLOAT32 & set(hub.fetched)
    assert set(hub.fetched) >= INT8
    fetch_bundle(Repository(NAME), has_all=True)
    assert set(hub.fetched) >= FLOAT32 | INT8


def test_a_commit_needs_no_network_the_second_time(hub: Hub, tiny_bundle: Path) -> None:
    hub.put(NAME, tiny_bundle)
    fetch_bundle(Repository(NAME, COMMIT))
    hub.forget()
    fetch_bundle(Repository(NAME, COMMIT))
    assert hub.requests == []


def test_a_branch_moves_and_a_tag_stays(hub: Hub, tiny_bundle: Path) -> None:
    stored = hub.put(NAME, tiny_bundle)
    stored.refs["v1"] = COMMIT
    moved = stored.add("main", stored.files() | {"other.txt": b"new"})
    assert fetch_bundle(Repository(NAME, "v1")).commit == COMMIT
    assert fetch_bundle(Repository(NAME)).commit == moved


def test_offline(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    hub.put(NAME, tiny_bundle)
    with pytest.raises(InputError, match=f"{NAME} is not .* in the hub's cache {cache}, and the network is off"):
        fetch_bundle(Repository(NAME), offline=True)
    assert hub.requests == []
    fetch_bundle(Repository(NAME))
    hub.forget()
    assert fetch_bundle(Repository(NAME), offline=True).commit == COMMIT
    assert mpt_edge.load(NAME, offline=True, threads=1).bundle.task_names
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_bundle(Repository(NAME), has_all=True).commit == COMMIT
    with pytest.raises(InputError, match=r"there is no folder owner/other here, and owner/other is not .* cache"):
        mpt_edge.load("owner/other")
    (cache / "models--owner--tiny" / "snapshots" / COMMIT / "onnx" / "model.onnx").unlink()
    for offline in (True, False):
        with pytest.raises(InputError, match=r"not whole.* in the hub's cache"):
            fetch_bundle(Repository(NAME), offline=offline)
    assert hub.requests == []


def test_a_folder_that_exists_wins(hub: Hub, tiny_bundle: Path) -> None:
    Path("owner").mkdir()
    Path(NAME).symlink_to(tiny_bundle)
    assert mpt_edge.load(NAME, threads=1).bundle.folder == Path(NAME)
    with pytest.raises(BundleNotFoundError, match="no bundle in owner/missing"):
        mpt_edge.load("owner/missing")
    with pytest.raises(BundleNotFoundError, match="no bundle in models/missing"):
        mpt_edge.load("models/missing")
    with pytest.raises(BundleNotFoundError, match="no bundle in someone/missing"):
        mpt_edge.load(Path("someone/missing"))
    assert hub.requests == []


def test_nothing_there(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = hub.put(NAME, tiny_bundle)
    with pytest.raises(BundleNotFoundError, match=r"^there is no folder owner/other here, and the hub has no"):
        mpt_edge.load("owner/other")
    with pytest.raises(BundleNotFoundError, match=r"^the hub has no repository owner/other, or it is private"):
        mpt_edge.load("hf://owner/other")
    with pytest.raises(InputError, match=f"{NAME} has no revision 'v9'; name a branch, a tag or a whole commit"):
        fetch_bundle(Repository(NAME, "v9"))
    stored.gated = True
    with pytest.raises(InputError, match=f"{NAME} is gated; accept its terms on its page"):
        fetch_bundle(Repository(NAME))
    stored.gated, stored.private = False, True
    with pytest.raises(BundleNotFoundError, match="log in by `hf auth login` or"):
        fetch_bundle(Repository(NAME))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert fetch_bundle(Repository(NAME)).commit == COMMIT
    assert WRITER in hub.tokens
    del stored.files()[MANIFEST]
    stored.add("main", stored.files())
    with pytest.raises(BundleNotFoundError, match=f"{NAME} is no bundle, since it has no bundle.json"):
        fetch_bundle(Repository(NAME))


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(InputError, match=f"the hub at {address} cannot be reached .*; check the network"):
        fetch_bundle(Repository(NAME))


def test_a_hub_that_fails(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(NAME, tiny_bundle)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    with pytest.raises(InputError, match="does not know the token that was sent for owner/tiny") as caught:
        fetch_bundle(Repository(NAME))
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    hub.broken["POST", f"/api/models/{NAME}/paths-info"] = 500
    with pytest.raises(InputError, match="the hub answered 500 for owner/tiny; try again later"):
        fetch_bundle(Repository(NAME))
    hub.broken["POST", f"/api/models/{NAME}/paths-info"] = 429
    with pytest.raises(InputError, match="asked too often"):
        fetch_bundle(Repository(NAME))


def test_digest(hub: Hub, tiny_bundle: Path) -> None:
    hub.put(NAME, tiny_bundle)
    digest = Bundle.open(tiny_bundle).digest
    assert mpt_edge.load(NAME, digest=digest, threads=1).bundle.digest == digest
    hub.forget()
    with pytest.raises(MismatchError, match=f"{NAME} has the digest {digest}, and {'0' * 64} is required"):
        mpt_edge.load(NAME, digest="0" * 64)
    assert hub.fetched == []


def test_other_files_than_listed_are_not_fetched(hub: Hub, tiny_bundle: Path) -> None:
    stored = hub.put(NAME, tiny_bundle)
    good = dict(stored.files())
    weights = "onnx/model.onnx_data"
    for bad in (good[weights][:-1], good[weights][::-1]):
        stored.add("main", good | {weights: bad})
        with pytest.raises(CorruptFileError, match=f"{weights} of {NAME}@.* is not the file that its bundle"):
            fetch_bundle(Repository(NAME))
    stored.add("main", {name: data for name, data in good.items() if name != weights})
    with pytest.raises(CorruptFileError, match=f"lacks {weights}, which its bundle.json lists"):
        fetch_bundle(Repository(NAME))
    assert set(hub.fetched) == {MANIFEST}
    stored.add("main", good | {MANIFEST: b" " * (MAX_MANIFEST + 1)})
    hub.forget()
    with pytest.raises(CorruptFileError, match=r"bundle.json of owner/tiny has 8,388,609 bytes, more than"):
        fetch_bundle(Repository(NAME))
    assert hub.fetched == []
    stored.add("main", good | {MANIFEST: json.dumps({"schema": 1}).encode()})
    with pytest.raises(CorruptFileError, match="lacks the entry 'sha256'"):
        fetch_bundle(Repository(NAME))


def test_without_the_extra(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    find = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "huggingface_hub" else find(name))
    message = r"^there is no folder owner/tiny here, and huggingface_hub is not installed; run: pip install"
    with pytest.raises(MissingExtraError, match=message):
        mpt_edge.load(NAME)


def test_tasks(hub: Hub, tiny_bundle: Path) -> None:
    stored = hub.put(NAME, tiny_bundle)
    task = fetch_task(Repository(NAME), "topic")
    assert (task.file.name, task.commit) == ("topic", COMMIT)
    assert task.data == (tiny_bundle / "tasks/topic.safetensors").read_bytes()
    assert hub.fetched == ["tasks/topic.safetensors"]
    with pytest.raises(UnknownTaskError, match="no task 'topics' in owner/tiny; did you mean 'topic'"):
        fetch_task(Repository(NAME), "topics")
    with pytest.raises(InputError, match=r"'../x' is no name of a task"):
        fetch_task(Repository(NAME), "../x")
    stored.add("main", {"tasks/other.safetensors": task.data})
    with pytest.raises(CorruptFileError, match=r"owner/tiny has the task 'topic' in tasks/other.safetensors"):
        fetch_task(Repository(NAME), "other")
