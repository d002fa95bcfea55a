"""Timing in turn, and recorded results, for several benchmarks."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)


def timed(calls: Mapping[Name, Callable[[], object]], repeats: int, warm: int = 1) -> dict[Name, float]:
    """Return the median seconds of each call; the first ``warm`` rounds do not count.

    Calls take turns, in another order in each round, since a call that empties the processor's caches delays the next.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    turns, order = list(calls.items()), random.Random(0)
    for number in range(repeats + warm):
        order.shuffle(turns)
        for name, call in turns:
            started = time.perf_counter()
            call()
            if number >= warm:
                seconds[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in seconds.items()}


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
