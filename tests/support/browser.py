"""Pages in Debian's Chromium, by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

#: Names of the browser's command.
COMMANDS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """Open the browser, or skip the test where there is none. Playwright's own would have to be downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[dev]'")
    path = next(filter(None, map(shutil.which, COMMANDS)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path)
        yield browser
        browser.close()
