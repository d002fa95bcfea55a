"""Rows through Ray on some workers, against `mpt-edge run` on as many cores: rows a second, and equal answers.

python benchmarks/batch.py [--bundle models/minilm-l6] [--task sst2] [--rows 100000] [--workers 2]

Both run as processes of their own, as users start them. The start-up of each is that of the same command with one
row for each worker, and does not count. Take a quiet machine; the rounds alternate, and the median counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated, Any

import typer

#: Words of the texts, and the range of their number: 6 to 30 tokens.
WORDS = (
    *("the", "film", "story", "actor", "plot", "scene", "was", "is", "not", "very", "good", "bad"),
    *("dull", "witty", "gorgeous", "long", "short", "old", "new"),
)
LENGTHS = (5, 25)

#: Largest difference of a score: float32 answers do not depend on their batch.
TOLERANCE = 1e-5


def main(
    bundle: Annotated[Path, typer.Option(help="The bundle's folder.")] = Path("models/minilm-l6"),
    task: Annotated[str, typer.Option(help="The task of all rows.")] = "sst2",
    rows: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1, help="Workers of Ray, and threads of `mpt-edge run`.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
) -> None:
    """Print rows a second of both, and stop where an answer differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = write_rows(folder / "few.jsonl", workers), write_rows(folder / "many.jsonl", rows)
        command = ["run", "--bundle", str(bundle.resolve()), "--task", task, "--no-progress"]
        plain = [*command, "--threads", str(workers)]
        ray = [*command, "--engine", "ray", "--workers", str(workers)]
        seconds: dict[str, list[float]] = {"run": [], "ray": []}
        for number in range(rounds):
            for kind, arguments in (("run", plain), ("ray", ray)):
                single = ["--part-rows", "1"] if kind == "ray" else []  # a row for each worker
                start = measure([*arguments, *single], few, folder / f"{kind}-few-{number}")
                whole = measure(arguments, many, folder / f"{kind}-{number}")
                seconds[kind].append(whole - start)
                print(f"{kind:4} start-up {start:7.2f} s, {rows:,} rows {whole - start:8.2f} s")
            compare(folder / f"run-{number}", folder / f"ray-{number}", rows)
    rates = {kind: rows / median(values) for kind, values in seconds.items()}
    print(f"run {rates['run']:,.0f} rows/s, ray {rates['ray']:,.0f} rows/s, ratio {rates['ray'] / rates['run']:.2f}")


def write_rows(path: Path, count: int) -> Path:
    """Write JSON lines with random texts, the same each time."""
    rng = Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            text = " ".join(rng.choices(WORDS, k=rng.randint(*LENGTHS)))
            file.write(json.dumps({"text": f"{text} {i}"}) + "\n")
    return path


def measure(arguments: list[str], source: Path, output: Path) -> float:
    """Return the seconds of a command."""
    program = str(Path(sys.executable).with_name("mpt-edge"))
    started = time.perf_counter()
    subprocess.run([program, *arguments, "--input", str(source), "--output", str(output)], check=True)
    return time.perf_counter() - started


def compare(plain: Path, parts: Path, rows: int) -> None:
    """Compare the answers of a file with those of a folder of parts, row by row."""
    lines = plain.read_text(encoding="utf-8").splitlines()
    others = [line for part in sorted(parts.glob("part-*")) for line in part.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(others) == rows
    difference = 0.0
    for line, other in zip(lines, others, strict=True):
        first, second = json.loads(line), json.loads(other)
        assert key_of(first) == key_of(second)
        difference = max(difference, abs(first["score"] - second["score"]))
    assert difference <= TOLERANCE, difference
    print(f"{rows:,} answers are equal; largest difference of a score {difference:.1g}")


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return all of an answer but its numbers."""
    return row["line"], row["text"], row["task"], row["label"], row.get("truncated"), row.get("unknown")


if __name__ == "__main__":
    typer.run(main)
