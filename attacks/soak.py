"""Answer in eight threads while two processes change the bundle, and check every answer and the memory.

python attacks/soak.py

Each version of a task has answers of its own, which are known beforehand. An answer is right if it is that of the
version that the task states; in a mixed batch, of any version. The model is loaded anew every second. After a
tenth of the time, at most a minute, the memory must be flat: the median of the last third of the samples may be
at most 3 % and 4 MB above that of the first third.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import numpy as np
import typer

import mpt_edge
from attacks.common import DONE, Child, Tally, resident_bytes
from attacks.mutant_kinds import memory_folder
from attacks.tiny import build_in_child
from mpt_edge.errors import InputError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.model import Model

TEXTS = ["a witty film", "ball game", "vote law party", "the gorgeous star cell text", "atom"]

#: Bytes of selected tasks that the model keeps: fewer than the tasks have, so that it lets some go all the time.
_CACHE_BYTES = 5_000

#: Different contents of a task; version n has content n modulo this.
VARIANTS = 4

#: Tasks that each installer changes.
TASKS = (("one", "two"), ("three", "four"))

#: Largest difference of an answer's score from the known one; the variants differ by more.
TOLERANCE = 1e-4

#: Growth of the memory that is still flat: a share of it, and bytes.
MAX_GROWTH, MAX_BYTES = 0.03, 4 << 20

#: Longest time at the start whose memory does not count, in seconds, and its share of short runs.
_WARM, _WARM_SHARE = 60.0, 0.1


def main(
    minutes: Annotated[float, typer.Option(help="Length of the run.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads that answer.")] = 8,
    reload: Annotated[float, typer.Option(help="Seconds after which the model is loaded anew.")] = 1.0,
) -> None:
    """Run, print counts, and exit with 1 if an answer was wrong, a change failed or the memory grew."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        bundle = build_in_child(folder)
        tallies = soak(bundle, seconds=60 * minutes, threads=threads, reload=reload)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for tally in tallies:
        print(tally)
    sys.exit(1 if any(tally.counts["broken"] for tally in tallies) else 0)


def soak(bundle: Path, *, seconds: float, threads: int, reload: float) -> list[Tally]:
    """Return counts of answers, changes and memory.

    Args:
        bundle: a bundle with the task ``topic``; it is not changed.
        seconds: length of the run.
        threads: threads that answer.
        reload: seconds after which the model is loaded anew.
    """
    place = memory_folder("soak-")
    try:
        folder = Path(shutil.copytree(bundle, place / "bundle"))
        known, end = _known_answers(folder), time.time() + seconds
        installers = [Child(partial(install_until, folder, names, end)) for names in TASKS]
        for child in installers:
            child.begin()
        run = Run(folder, known, end, reload)
        memory = run.answer(threads)
        changes = Tally("changes")
        for child, names in zip(installers, TASKS, strict=True):
            code, message = child.wait()
            changes.add("installer", None if code == DONE else message)
            changes.counts.update(json.loads(_log_path(folder, names).read_text("utf-8")) if code == DONE else {})
        Bundle.open(folder).verify_files()
        return [run.tally, changes, memory_tally(memory, seconds)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def make_version(base: TaskFile, name: str, version: int) -> TaskFile:
    """Return a version of a task; its vectors depend on the version modulo `VARIANTS`."""
    scales = np.random.default_rng(version % VARIANTS).normal(1, 0.4, base.u.shape)
    return replace(base, name=name, version=version, u=scales.astype(np.float16))


Known = dict[tuple[int, str], dict[str, float]]
"""Scores by label, for each variant and text."""


def _known_answers(folder: Path) -> Known:
    """Return the right answers, each given by a model of its own; all tasks have the same variants."""
    base, path, known = Bundle.open(folder).task("topic"), folder.parent / "known.safetensors", Known()
    for variant in range(VARIANTS):
        make_version(base, "known", VARIANTS + variant).save(path)
        task = mpt_edge.load(folder, threads=1).add_task(path)
        known |= {(variant, text): task(text).scores for text in TEXTS}
    for text in TEXTS:
        rows = [list(known[variant, text].values()) for variant in range(VARIANTS)]
        gaps = [np.abs(np.subtract(a, b)).max() for i, a in enumerate(rows) for b in rows[:i]]
        if min(gaps) < 10 * TOLERANCE:
            raise RuntimeError(f"versions answer {text!r} alike, so this run would show nothing")
    return known


def install_until(folder: Path, names: Sequence[str], end: float) -> None:
    """Change tasks that no other process changes, and check after each change that it was made."""
    random, versions = Random(names[0]), dict.fromkeys(names, 0)  # noqa: S311 - it is no secret
    counts = Tally("changes")
    base = Bundle.open(folder).task("topic")
    while time.time() < end:
        name = random.choice(names)
        versions[name] += 1
        path = folder.parent / f"{name}.safetensors"
        make_version(base, name, versions[name]).save(path)
        Bundle.open(folder).install_untested(path)
        counts.add("installs")
        _expect(folder, name, versions[name])
        if random.random() < 0.3:
            try:
                restored = Bundle.open(folder).rollback(name)
            except InputError:  # it was just removed, so there is no earlier version
                continue
            counts.add("rollbacks")
            _expect(folder, name, restored.version)
        if random.random() < 0.2:
            Bundle.open(folder).remove(name)
            counts.add("removes")
            _expect(folder, name, None)
    _log_path(folder, names).write_text(json.dumps(counts.counts), "utf-8")


def _expect(folder: Path, name: str, version: int | None) -> None:
    try:
        found: int | None = Bundle.open(folder).task(name).version
    except UnknownTaskError:
        found = None
    if found != version:
        raise RuntimeError(f"{name} has version {found} after a change to {version}")


def _log_path(folder: Path, names: Sequence[str]) -> Path:
    return folder.parent / f"{names[0]}.json"


@dataclass
class Run:
    """Threads that answer."""

    folder: Path
    known: Known
    end: float
    reload: float
    tally: Tally = field(default_factory=lambda: Tally("answers"))

    def __post_init__(self) -> None:
        """Load the model."""
        self._model = self._load()
        self._lock = threading.Lock()

    def _load(self) -> Model:
        return mpt_edge.load(self.folder, threads=1, max_cache_bytes=_CACHE_BYTES)

    def answer(self, threads: int) -> list[int]:
        """Answer until the end, and return samples of the memory in bytes."""
        workers = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        samples, loaded = [], time.time()
        while time.time() < self.end:
            time.sleep(min(0.5, self.reload))
            samples.append(resident_bytes())
            if time.time() - loaded > self.reload:
                self._model, loaded = self._load(), time.time()
        for worker in workers:
            worker.join()
        return samples

    def _work(self, number: int) -> None:
        random = Random(number)  # noqa: S311 - it is no secret
        names = [name for group in TASKS for name in group]
        while time.time() < self.end:
            try:
                result, problem = self._ask(random, names)
            except MptEdgeError as error:
                result, problem = "answer", f"refused: {error}"
            except Exception as error:  # whatever comes of a race
                result, problem = "answer", f"{type(error).__name__}: {error}"
            with self._lock:
                self.tally.add(result, problem)

    def _ask(self, random: Random, names: list[str]) -> tuple[str, str | None]:
        """Ask once, in one of two ways; return what was asked, and the problem."""
        model, text = self._model, random.choice(TEXTS)
        try:
            if random.random() < 0.3:
                pair = random.sample(names, 2)
                answers = model.run([text, text], tasks=pair)
                problems = [self._problem(answer.scores, text, range(VARIANTS)) for answer in answers]
                return "answered in mixed batches", next(filter(None, problems), None)
            task = model.task(random.choice(names))
        except UnknownTaskError:
            return "asked a removed task", None
        return "answered", self._problem(task(text).scores, text, [task.file.version % VARIANTS])

    def _problem(self, scores: Mapping[str, float], text: str, variants: Sequence[int]) -> str | None:
        rights = (self.known[variant, text] for variant in variants)
        if any(all(abs(scores[label] - right[label]) < TOLERANCE for label in right) for right in rights):
            return None
        return f"{text!r} has the scores {scores}, which no version in use gives"


def memory_tally(samples: Sequence[int], seconds: float) -> Tally:
    """Return whether the memory is flat after the start."""
    tally = Tally("memory")
    skipped = int(len(samples) * min(_WARM, _WARM_SHARE * seconds) / seconds)
    rest = samples[skipped:]
    third = len(rest) // 3
    if not third:
        tally.add("samples", "the run is too short to measure memory")
        return tally
    first, last = median(rest[:third]), median(rest[-third:])
    grown = last - first
    text = f"from {first / 2**20:,.1f} to {last / 2**20:,.1f} MB"
    tally.add(text, f"{text}, which is not flat" if grown > MAX_BYTES + MAX_GROWTH * first else None)
    return tally


if __name__ == "__main__":
    typer.run(main)
