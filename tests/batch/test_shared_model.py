"""One model a process for each bundle and settings, in one thread by default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mpt_edge.batch import shared_model as module
from mpt_edge.batch.shared_model import ModelSettings, shared_model


def test_threads_that_ask_at_once_load_it_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int | None] = []
    load = module.load
    monkeypatch.setattr(module, "load", lambda path, **given: threads.append(given["threads"]) or load(path, **given))
    module._load.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        models = set(pool.map(lambda _: id(shared_model(ModelSettings.of(tiny_bundle))), range(8)))
    assert (len(models), threads) == (1, [1])
    assert shared_model(ModelSettings.of(tiny_bundle, threads=2)) is not shared_model(ModelSettings.of(tiny_bundle))


def test_path_is_absolute_where_the_bundle_is_here(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    assert ModelSettings.of(tiny_bundle.name).bundle == str(tiny_bundle)
    assert ModelSettings.of(Path("on-another") / "machine").bundle == str(Path("on-another") / "machine")
    monkeypatch.setenv("MPT_EDGE_BUNDLE", str(tmp_path))
    assert ModelSettings.of().bundle == str(tmp_path)
