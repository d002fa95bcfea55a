"""The hub's client: its address, its cache, and what it says about others."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import errors

from mpt_edge.errors import InputError
from mpt_edge.hub.client import asking, be_quiet, cache_folder, connect
from mpt_edge.hub.repositories import Repository
from tests.support.hub import Hub

REPOSITORY = Repository("owner/name")


def test_address_and_cache(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    assert connect(REPOSITORY).endpoint == hub.address
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert cache_folder() == cache
    assert hub.requests == []


@pytest.mark.parametrize(
    "error",
    [httpx2.ConnectError("x"), httpx2.ReadTimeout("x"), ConnectionError("hf_secret"), errors.XetDownloadError()],
)
def test_broken_networks(error: Exception) -> None:
    message = r"^the hub at .* cannot be reached \(\w+\); check the network"
    with pytest.raises(InputError, match=message) as caught, asking(REPOSITORY):
        raise error
    assert "secret" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError), asking(REPOSITORY):
        raise PermissionError("a cache that may not be written")


def test_quiet_client() -> None:
    be_quiet(REPOSITORY)
    assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
