"""`mpt-edge push`: verified first, one commit, no token on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from tests.support.commands import run_here
from tests.support.hub import WRITER, Hub, running
from tests.support.outcomes import done, refused

NAME = "owner/mine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(tmp_path / "cache", monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


def test_bundle_there_and_back(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    printed = done(run_here("push", NAME, "--bundle", tiny_bundle, "--private", "--tag", "v1"))
    commit = hub.repositories[NAME].refs["v1"]
    count = len(bundle.manifest.files)
    assert printed == f"pushed {count} files, digest {bundle.digest} to {NAME} at {commit}\n"
    assert commit in done(run_here("pull", NAME, "--revision", "v1", "--output", tmp_path / "app"))
    assert Bundle.open(tmp_path / "app").digest == bundle.digest


def test_tasks_to_install(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_file: Callable[..., Path]
) -> None:
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file("fresh"))
    assert f"pushed 1 task to {NAME} at " in done(run_here("push", NAME, "--bundle", folder, "--task", "fresh"))
    assert "'topic' has no reference example" in refused(run_here("push", NAME, "--bundle", folder, "--task", "topic"))
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    bundle.remove("fresh")
    source = f"hf://{NAME}/tasks/fresh.safetensors"
    assert "installed fresh" in done(run_here("tasks", "install", source, "--bundle", folder))


def test_wrong_answers_are_not_pushed(hub: Hub, folder: Path, task_file: Callable[..., Path]) -> None:
    good = TaskFile.load(task_file("good"))
    bundle = Bundle.open(folder)
    bundle.install_untested(task_file("bad", u=-good.u, reference_example=good.reference_example))
    for arguments in ([], ["--task", "bad"]):
        sentence = refused(run_here("push", NAME, "--bundle", folder, *arguments))
        assert "bad answers its reference example with" in sentence
    assert hub.requests == []


def test_without_a_token(hub: Hub, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    sentence = refused(run_here("push", NAME, "--bundle", tiny_bundle))
    assert "log in" in sentence
    assert "hf_of_nobody" not in sentence
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token of the hub" in refused(run_here("push", NAME, "--bundle", tiny_bundle))
    assert hub.repositories == {}
