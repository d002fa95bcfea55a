"""The hub's cache of users with and without a home folder."""

from __future__ import annotations

import pytest

from mpt_edge.errors import InputError
from mpt_edge.training.hub import check_cache


def test_cache_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(InputError, match="no home folder to keep downloads in; set HOME or HF_HOME"):
        check_cache()


@pytest.mark.parametrize("folder", ["/home/me/.cache/huggingface/hub", "relative/hub"])
def test_cache_elsewhere(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", folder)
    check_cache()
