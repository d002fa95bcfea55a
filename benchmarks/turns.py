"""Timed turns of runtimes that generate text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

from generation_peers import Writer


def time_all(ways: Mapping[str, Writer], new_tokens: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds to the first token and tokens a second of each way, medians of turns."""
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    wholes: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            # Untimed: the first run after another runtime pays for its threads and processor caches. That takes
            # tens of milliseconds, as long as a model of a few megabytes generates.
            way(new_tokens)
            for count, times in ((1, firsts), (new_tokens, wholes)):
                started = time.perf_counter()
                tokens = way(count)
                times[name].append(time.perf_counter() - started)
                assert len(tokens) == count, f"{name} generated {len(tokens)} of {count} tokens"
    return {name: (1e3 * median(firsts[name]), new_tokens / median(wholes[name])) for name in ways}


def price(prompted: Writer, plain: Writer, new_tokens: int, repeats: int) -> float:
    """Return the ratio of time with a prompt to time without: the median of pairs of turns.

    Both of a pair take turns at being first. No other runtime runs in between, since its threads would still wait
    for work.
    """
    ratios = []
    for number in range(2 * repeats + 2):
        seconds = {}
        for way in (prompted, plain) if number % 2 else (plain, prompted):
            started = time.perf_counter()
            way(new_tokens)
            seconds[way] = time.perf_counter() - started
        ratios.append(seconds[prompted] / seconds[plain])
    return median(ratios[2:])  # the first two warm up
