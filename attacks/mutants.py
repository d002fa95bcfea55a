"""Parse mutants of task files, prompts, manifests, tokenizers and graphs.

python attacks/mutants.py

A mutant is refused by a sentence of ours, or it is accepted and means the same, or its hash was made anew.
Anything else is a failure: another exception, more than a second, more than 256 MB, the end of the process, another
meaning. Mutants depend on `--seed` and their number alone. Those that get through are kept in `--keep`;
`--replay FILE` checks one again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from attacks.mutant_kinds import Kind, ManifestKind, PromptKind, TaskKind
from attacks.mutant_models import AnswerKind, BundleManifestKind, BundleTokenizerKind, GraphKind, TokenizerKind
from attacks.mutant_strategies import generated_container, generated_manifest
from attacks.mutant_workers import Report, mutant, run_workers
from attacks.originals import file_bytes, make_manifests, make_prompts, make_tasks, make_tokenizers, shipped_files
from attacks.tiny import build_in_child
from mpt_edge.errors import MptEdgeError

#: Share of each kind in all mutants, in thousandths. The last ones cost a hundred times as much as the first.
SHARES = {
    "task": 460,
    "generated task": 20,
    "manifest": 250,
    "generated manifest": 10,
    "prompt": 180,
    "generated prompt": 10,
    "tokenizer": 50,
    "answers": 12,
    "graph": 5,
    "bundle": 2,
    "bundle tokenizer": 1,
}

#: Number of mutants after which a process ends, and memory that libraries leak with it.
_PER_PROCESS = 2000


def main(
    count: Annotated[int, typer.Option(help="Number of mutants.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    kinds: Annotated[str, typer.Option(help="Kinds of files, separated by commas; all by default.")] = "",
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    keep: Annotated[Path, typer.Option(help="Folder for mutants that get through.")] = Path("mutants"),
    replay: Annotated[Path | None, typer.Option(help="Check this kept mutant alone.")] = None,
) -> None:
    """Check mutants, print counts by kind, and exit with 1 if any got through."""
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        chosen = {replay.name.split("-")[0]} if replay else set(filter(None, kinds.split(","))) or set(SHARES)
        made = {kind.name: kind for kind in make_kinds(folder, chosen)}
        if replay is not None:
            print(replay_file(made[replay.name.split("-")[0]], replay))
            return
        failed = 0
        for name, kind in made.items():
            started = time.perf_counter()
            report = attack(kind, seed, -(-count * SHARES[name] // (1000 * kind.per_number)), workers, keep)
            failed += len(report.failures)
            print(f"{summary(kind, report)} ({time.perf_counter() - started:.0f} s)", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


def make_kinds(folder: Path, names: set[str], bundle: Path | None = None) -> Iterator[Kind]:
    """Yield kinds of files by name.

    Args:
        folder: where originals are written.
        names: names of the kinds.
        bundle: a bundle that can be loaded; None to build one where it is needed.
    """
    (folder / "empty").mkdir()
    task = TaskKind([*file_bytes(folder, make_tasks()), *shipped_files("tasks")])
    manifest = ManifestKind([each.to_json().encode() for each in make_manifests(folder / "empty")])
    prompt = PromptKind(list(file_bytes(folder, make_prompts())))
    generated = [generated_container(task), generated_manifest(manifest), generated_container(prompt)]
    kinds: list[Kind] = [task, manifest, prompt, *generated, TokenizerKind(make_tokenizers())]
    yield from (kind for kind in kinds if kind.name in names)
    loaded = [each for each in (AnswerKind, GraphKind, BundleManifestKind, BundleTokenizerKind) if each.name in names]
    if loaded:
        bundle = bundle or build_in_child(folder)
        yield from (each(bundle) for each in loaded)


def attack(kind: Kind, seed: int, count: int, workers: int, keep: Path) -> Report:
    """Check mutants of one kind, and keep those that get through."""
    size = max(1, min(_PER_PROCESS, -(-count // workers)))
    jobs = [(kind, range(start, min(start + size, count))) for start in range(0, count, size)]
    report = run_workers(jobs, seed, workers)[kind.name]
    for number, _ in report.failures:
        data, is_sealed = mutant(kind, seed, number)
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{kind.name}-{seed}-{number}{'-sealed' if is_sealed else ''}").write_bytes(data)
    return report


def summary(kind: Kind, report: Report) -> str:
    """Return all counts in one line, and the first failures below."""
    size = kind.per_number
    counts = [f"{size * number:,} {result}" for result, number in sorted(report.counts.items())]
    parts = [f"{size * report.counts.total():,} mutants", *counts, f"{len(report.failures):,} got through"]
    lines = [f"{kind.name}: {', '.join(parts)}"]
    return "\n".join(lines + [f"    {number}: {text}" for number, text in sorted(report.failures)[:8]])


def replay_file(kind: Kind, path: Path) -> str:
    """Check one kept mutant in this process, and return the result; a failure shows its traceback."""
    kind.begin()
    try:
        return kind.check(path.read_bytes(), is_sealed=path.name.endswith("-sealed"))
    except MptEdgeError as error:
        return f"refused: {error}"
    finally:
        kind.end()


if __name__ == "__main__":
    typer.run(main)
