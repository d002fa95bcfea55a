"""Take the screenshots of the page that docs/server.md shows.

    python scripts/screenshots.py          # of models/minilm-l6, into docs/

Needs Chromium (`apt-get install chromium`). Take them on a quiet machine: they show milliseconds.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]

#: Limit of a file, in bytes, and the number of its colors.
MAX_BYTES, COLORS = 120_000, 128

#: A task of the shipped bundle that the text is no example of.
LEFT_OUT = "banking77"

#: Rounds before a screenshot; the first ones select tasks and warm caches.
ROUNDS = 5

TEXT = "Could you book a table for two tonight? I am so happy!"


@dataclass(frozen=True)
class Shot:
    """A screenshot."""

    name: str
    scheme: str
    width: int
    height: int


SHOTS = (Shot("page-desktop", "light", 1120, 780), Shot("page-phone", "dark", 390, 800))


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle.")] = ROOT / "models" / "minilm-l6",
    output: Annotated[Path, typer.Option(help="Folder of the files.")] = ROOT / "docs",
    chromium: Annotated[str, typer.Option(help="The browser.")] = "/usr/bin/chromium",
) -> None:
    """Take all screenshots."""
    with served(bundle) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        for shot in SHOTS:
            path = output / f"{shot.name}.png"
            take(browser, url, shot, path)
            size = path.stat().st_size
            print(f"{path}: {size:,} bytes")
            if size > MAX_BYTES:
                sys.exit(f"{path} is larger than {MAX_BYTES:,} bytes; make it smaller.")
        browser.close()


def take(browser: Browser, url: str, shot: Shot, path: Path) -> None:
    """Take a screenshot of the answers to a text, once all tasks have been selected."""
    page = browser.new_page(
        color_scheme=shot.scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        device_scale_factor=2,
        viewport={"width": shot.width, "height": shot.height},
    )
    page.goto(url)
    wait_for_answers(page)
    page.get_by_label(LEFT_OUT).uncheck()
    page.fill("#text", TEXT)
    for _ in range(ROUNDS):
        page.click("#ask [type=submit]")
        wait_for_answers(page)
    page.mouse.move(0, 0)
    page.screenshot(path=path)
    page.close()
    Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)


def wait_for_answers(page: Page) -> None:
    """Wait until no card waits for its answer."""
    page.wait_for_selector(".best")
    page.wait_for_function("() => !document.querySelector('[aria-busy]')")


@contextlib.contextmanager
def served(bundle: Path) -> Iterator[str]:
    """Serve a bundle on a free port."""
    command = [sys.executable, "-m", "mpt_edge", "serve", "--bundle", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        if not process.stdout.readline().startswith("ready"):
            sys.exit("the server did not start; see its message above.")
        yield url
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    typer.run(main)
