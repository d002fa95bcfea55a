"""docs/hub.md: its commands and its code, with a hub on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpt_edge.formats.bundle import Bundle
from tests.support.blocks import examples
from tests.support.hub import WRITER, running
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")


def test_the_page(
    tiny_bundle: Path, task_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(tiny_bundle, here / "bundles" / "device")
    shutil.copytree(tiny_bundle, here / "bundles" / "app")
    Bundle.open(here / "bundles" / "app").install_untested(task_file("fresh"))
    with running(tmp_path / "cache", monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        blocks = [example for example in examples(PAGE) if not example.is_setup]
        assert len(blocks) == 6
        for example in blocks:
            if "pull owner/app" in example.code and "--offline" not in example.code:
                shutil.rmtree(here / "bundles" / "device")  # a device that has nothing yet
            printed = example.run(here)
            assert example.output is None or printed == example.output
        assert hub.repositories["owner/app"].private
    assert "fresh" in Bundle.open(here / "bundles" / "device").task_names
    assert Bundle.open(here / "bundles" / "second").digest == Bundle.open(here / "bundles" / "app").digest
