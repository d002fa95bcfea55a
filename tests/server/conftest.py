"""Apps in this process on the tiny bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.inference.model import Model
from tests.support import http
from tests.support.http import App


@pytest.fixture(scope="session")
def encoder(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def generator(writer_bundle: Path) -> Model:
    return mpt_edge.load(writer_bundle, threads=1)


@pytest.fixture(scope="module")
def app(encoder: Model) -> Iterator[App]:
    """Return an app of the small encoder."""
    with http.ready(encoder) as made:
        yield made


@pytest.fixture(scope="module")
def writing(generator: Model) -> Iterator[App]:
    """Return an app of the small generative model."""
    with http.ready(generator) as made:
        yield made
