"""Pushes: one commit of verified files, and nothing where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.formats.remote import fetched
from mpt_edge.hub.fetching import fetch_bundle
from mpt_edge.hub.pulling import pull_bundle
from mpt_edge.hub.pushing import push_bundle, push_tasks
from mpt_edge.hub.repositories import Repository
from tests.support.bundles import flip, read_files
from tests.support.hub import READER, WRITER, Hub

NAME = "owner/mine"
REPOSITORY = Repository(NAME)


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log in, once the hub has taken this user's own token away."""
    monkeypatch.setenv("HF_TOKEN", WRITER)


def writes(hub: Hub) -> list[str]:
    return [path for method, path in hub.requests if method in ("POST", "PUT")]


@pytest.mark.usefixtures("token")
def test_what_is_pushed_is_what_is_pulled(
    hub: Hub, folder: Path, tmp_path: Path, task_file: Callable[..., Path]
) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file("topic", version=2))
    for name in (".lock", ".bundle.json.0123abcd", "secret.pem", "tasks/unlisted.safetensors"):
        (folder / name).write_text("not for others")
    pushed = push_bundle(bundle, REPOSITORY, private=True, tag="v2")
    stored = hub.repositories[NAME]
    assert stored.private
    assert set(stored.files()) == {".gitattributes", MANIFEST, *bundle.manifest.files} - {
        name for name in bundle.manifest.files if name.startswith("previous/")
    }
    assert (stored.refs["main"], stored.refs["v2"]) == (pushed.commit, pushed.commit)
    assert len(stored.commits) == 2  # the hub's own, and one
    pulled = pull_bundle(Repository(NAME, "v2"), tmp_path / "app", digest=bundle.digest)
    assert pulled.commit == pushed.commit
    assert mpt_edge.load(tmp_path / "app", threads=1).task("topic").file.version == 2


@pytest.mark.usefixtures("token")
def test_second_push_sends_what_changed(hub: Hub, folder: Path) -> None:
    bundle = Bundle.open(folder)
    push_bundle(bundle, REPOSITORY)
    hub.repositories[NAME].files()["notes.txt"] = b"stays"
    bundle.remove("topic")
    hub.forget()
    push_bundle(bundle, REPOSITORY)
    files = hub.repositories[NAME].files()
    assert "tasks/topic.safetensors" not in files
    assert files["notes.txt"] == b"stays"
    assert not any(path.startswith("/store/") for path in writes(hub))  # the weights are there
    assert fetch_bundle(REPOSITORY).manifest.digest == bundle.digest
    again = push_bundle(bundle, REPOSITORY)
    assert again.commit == hub.repositories[NAME].refs["main"]


@pytest.mark.usefixtures("token")
def test_branch(hub: Hub, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    push_bundle(bundle, Repository(NAME, "next"))
    stored = hub.repositories[NAME]
    assert MANIFEST in stored.files("next")
    assert MANIFEST not in stored.files()


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("name", ["onnx/model.onnx_data", "tokenizer.json", "tasks/topic.safetensors"])
def test_damage_is_not_pushed(hub: Hub, folder: Path, name: str) -> None:
    flip(folder / name)
    with pytest.raises(CorruptFileError, match=f"{name} is damaged"):
        push_bundle(Bundle.open(folder), REPOSITORY)
    (folder / name).unlink()
    with pytest.raises(CorruptFileError, match=f"{name} is missing"):
        push_bundle(Bundle.open(folder), REPOSITORY)
    assert hub.requests == []


def test_tokens(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(InputError, match="there is no token of the hub; log in by `hf auth login`, or set"):
        push_bundle(bundle, REPOSITORY)
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(
        InputError, match="the token may not do this with owner/mine; log in with one that may"
    ) as caught:
        push_bundle(bundle, REPOSITORY)
    assert READER not in str(caught.value)
    assert NAME not in hub.repositories
    Path(constants.HF_TOKEN_PATH).parent.mkdir()
    Path(constants.HF_TOKEN_PATH).write_text(WRITER)  # as `hf auth login` keeps it
    monkeypatch.delenv("HF_TOKEN")
    assert push_bundle(bundle, REPOSITORY).files == len(bundle.manifest.files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE turns the network off"):
        push_bundle(bundle, REPOSITORY)


@pytest.mark.usefixtures("token")
def test_private_means_private(hub: Hub, tiny_bundle: Path) -> None:
    push_tasks(Bundle.open(tiny_bundle), ["topic"], REPOSITORY)
    before = hub.repositories[NAME].refs["main"]
    with pytest.raises(InputError, match="owner/mine is public; make it private on its page"):
        push_bundle(Bundle.open(tiny_bundle), REPOSITORY, private=True)
    assert hub.repositories[NAME].refs["main"] == before


@pytest.mark.usefixtures("token")
def test_refused_uploads(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    bundle = Bundle.open(tiny_bundle)
    hub.broken["PUT", "/store/"] = 403
    with pytest.raises(InputError, match="the token may not do this"):
        push_bundle(bundle, REPOSITORY)
    hub.broken["POST", f"/api/models/{NAME}/commit"] = 412
    with pytest.raises(InputError, match="owner/mine was changed, or has that name already"):
        push_bundle(bundle, REPOSITORY)
    assert set(hub.repositories[NAME].files()) == {".gitattributes"}
    push_bundle(bundle, REPOSITORY, tag="v1")
    with pytest.raises(InputError, match="was changed, or has that name already"):
        push_bundle(bundle, REPOSITORY, tag="v1")
    with pytest.raises(InputError, match=r"'\.\./x' is no revision"):
        push_bundle(bundle, REPOSITORY, tag="../x")


@pytest.mark.usefixtures("token")
def test_tasks_alone(hub: Hub, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle)
    pushed = push_tasks(bundle, ["topic", "same"], REPOSITORY, tag="v1")
    files = hub.repositories[NAME].files()
    assert set(files) == {".gitattributes", "README.md", "tasks/topic.safetensors", "tasks/same.safetensors"}
    assert pushed.files == 2
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: mpt-edge\n")
    assert "| topic | similarity | 3 | 1 |" in card
    files["README.md"] = b"mine"
    push_tasks(bundle, ["sentiment"], REPOSITORY)
    assert hub.repositories[NAME].files()["README.md"] == b"mine"
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with fetched(f"hf://{NAME}@v1/tasks/topic.safetensors") as path:
        assert path.read_bytes() == read_files(tiny_bundle)["tasks/topic.safetensors"]
    with pytest.raises(UnknownTaskError, match="did you mean 'topic'"):
        push_tasks(bundle, ["topics"], REPOSITORY)


@pytest.mark.usefixtures("token")
def test_tasks_alone_do_not_spoil_a_bundle(hub: Hub, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    push_bundle(bundle, REPOSITORY)
    with pytest.raises(InputError, match=r"owner/mine holds a bundle, whose manifest would not list topic; push the"):
        push_tasks(bundle, ["topic"], REPOSITORY)
