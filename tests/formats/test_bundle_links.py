"""Bundles whose files are links: opened, run and changed, with the files they lead to left as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import MODEL
from mpt_edge_export.parity import open_graph
from tests.support.bundles import TASK, flip, read_files
from tests.support.hub import into_cache

MakeTask = Callable[..., Path]


@pytest.fixture
def linked(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return the tiny bundle as the hub's cache holds it."""
    return into_cache(tiny_bundle, "someone/tiny", tmp_path / "cache")


def blobs(linked: Path) -> dict[str, bytes]:
    return read_files(linked.parents[1] / "blobs")


def test_bundle_in_the_hubs_cache(linked: Path, tiny_bundle: Path) -> None:
    assert all(path.is_symlink() for path in linked.rglob("*") if path.is_file())
    expected = mpt_edge.load(tiny_bundle, threads=1).task("sentiment")("a witty film")
    for verify in (True, False):
        assert mpt_edge.load(linked, threads=1, verify=verify).task("sentiment")("a witty film") == expected
    bundle = Bundle.open(linked)
    for name in bundle.manifest.files:
        assert bundle.verify(name) == linked / name
    assert open_graph(linked, bundle.manifest, bundle.choose_precision())


def test_generative_bundle_in_the_hubs_cache(writer_bundle: Path, tmp_path: Path) -> None:
    linked = into_cache(writer_bundle, "someone/writer", tmp_path)
    expected, found = (mpt_edge.load(folder, threads=1).task("story")("The cat") for folder in (writer_bundle, linked))
    assert found == expected


def test_folder_of_a_config_map(tiny_bundle: Path, tmp_path: Path) -> None:
    """Kubernetes links each file through a folder that is a link itself, so that it can swap all at once."""
    shutil.copytree(tiny_bundle, tmp_path / "..2024_01_05")
    (tmp_path / "..data").symlink_to("..2024_01_05")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundle.iterdir():
        (bundle / path.name).symlink_to(Path("..") / "..data" / path.name)
    assert mpt_edge.load(bundle, threads=1).task("topic")("a film").label


def test_changes_leave_blobs_as_they_are(linked: Path, task_file: MakeTask) -> None:
    before = blobs(linked)
    bundle = Bundle.open(linked)
    old = (linked / TASK).read_bytes()
    bundle.install_untested(task_file("topic", version=2))
    assert not (linked / "bundle.json").is_symlink()
    assert Bundle.open(linked).task("topic").version == 2
    bundle.rollback("topic")
    assert Bundle.open(linked).read("tasks/topic.safetensors", 1 << 20) == old
    bundle.remove("topic")
    bundle.remove("same")
    assert Bundle.open(linked).task_names == ["sentiment"]
    assert blobs(linked) == before


def test_manifest_elsewhere_is_left_as_it_is(folder: Path, tmp_path: Path, task_file: MakeTask) -> None:
    shutil.move(folder / "bundle.json", tmp_path / "kept.json")
    (folder / "bundle.json").symlink_to(tmp_path / "kept.json")
    before = (tmp_path / "kept.json").read_bytes()
    Bundle.open(folder).install_untested(task_file())
    assert (tmp_path / "kept.json").read_bytes() == before
    assert "fresh" in Bundle.open(folder).task_names


CHANGES: dict[str, Callable[[Bundle, MakeTask], object]] = {
    "install": lambda bundle, make: bundle.install_untested(make("topic", version=3)),
    "rollback": lambda bundle, _: bundle.rollback("topic"),
    "remove": lambda bundle, _: bundle.remove("topic"),
}


@pytest.mark.parametrize("name", ["tasks", "installed"])
@pytest.mark.parametrize("change", CHANGES)
def test_change_through_a_folder_elsewhere(
    folder: Path, tmp_path: Path, task_file: MakeTask, name: str, change: str
) -> None:
    Bundle.open(folder).install_untested(task_file("topic", version=2))
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    before = read_files(tmp_path)
    with pytest.raises(InputError) as caught:
        CHANGES[change](Bundle.open(folder), task_file)
    assert str(caught.value) == (
        f"{folder / name} is a link, through which nothing is changed; replace it by the folder."
    )
    after = read_files(tmp_path)
    made = "topic.safetensors"  # what the test itself writes
    assert {path: after[path] for path in before if path != made} == {
        path: data for path, data in before.items() if path != made
    }
    assert not (folder / ".lock").exists()


def test_change_through_a_link_to_nothing(folder: Path, tmp_path: Path, task_file: MakeTask) -> None:
    (folder / "installed").symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match="installed is a link"):
        Bundle.open(folder).install_untested(task_file("topic", version=2))
    assert not (tmp_path / "none").exists()


def test_change_through_a_link_to_the_bundle(folder: Path, tmp_path: Path, task_file: MakeTask) -> None:
    (tmp_path / "link").symlink_to(folder)
    Bundle.open(tmp_path / "link").install_untested(task_file())
    assert Bundle.open(folder).task("fresh").name == "fresh"


def test_without_verification_only_sizes_are_compared(linked: Path) -> None:
    """The graph's weights are then trusted, wherever their link leads; small files never are."""
    weights = linked / f"{MODEL}_data"
    flip(weights.resolve())
    with pytest.raises(CorruptFileError, match="is damaged"):
        mpt_edge.load(linked)
    model = mpt_edge.load(linked, threads=1, verify=False)
    flip((linked / TASK).resolve())
    with pytest.raises(CorruptFileError, match="is damaged"):
        model.task("topic")
