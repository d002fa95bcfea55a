"""Milliseconds from opening the page of `mpt-edge serve` to its answers, in Chromium on this machine.

    python benchmarks/page.py

Needs Chromium (`apt install chromium`). Each run has a new server, which has selected no task, and a new profile of
the browser; then the page is opened once more. Use a quiet machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]

#: Notes the time of each new answer, counted from the moment that the address was opened.
_WATCH = """
window.answered = [];
new MutationObserver(() => {
    const count = document.querySelectorAll(".card .best").length;
    while (window.answered.length < count) window.answered.push(performance.now());
}).observe(document, { childList: true, subtree: true });
"""


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle.")] = ROOT / "models" / "minilm-l6",
    runs: Annotated[int, typer.Option(help="Servers that are started.")] = 5,
    chromium: Annotated[str, typer.Option(help="The browser.")] = "/usr/bin/chromium",
) -> None:
    """Measure the page of a bundle of encoder tasks."""
    first: list[dict[str, float]] = []
    second: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        for _ in range(runs):
            with _served(bundle) as url:
                browser = playwright.chromium.launch(executable_path=chromium)
                first.append(_open(browser, url))
                second.append(_open(browser, url))
                browser.close()
    for name, rows in (("no task selected", first), ("all tasks selected", second)):
        print(f"{name}: " + "; ".join(_summary(rows, kind) for kind in ("paint", "first answer", "all answers")))


def _open(browser: Browser, url: str) -> dict[str, float]:
    """Open the page, and return its times."""
    page = browser.new_context().new_page()
    page.add_init_script(_WATCH)
    page.goto(url)
    page.wait_for_selector(".card .best")
    page.wait_for_function("() => !document.querySelector('[aria-busy]')", timeout=60_000)
    answered: list[float] = page.evaluate("window.answered")
    paint: Any = page.evaluate("performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)")
    page.context.close()
    return {"paint": max(paint, default=0.0), "first answer": answered[0], "all answers": answered[-1]}


def _summary(rows: list[dict[str, float]], kind: str) -> str:
    values = [row[kind] for row in rows]
    return f"{kind} after {median(values):.0f} ms (median of {len(values)}, at most {max(values):.0f})"


@contextlib.contextmanager
def _served(bundle: Path) -> Iterator[str]:
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
