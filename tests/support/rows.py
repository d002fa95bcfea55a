"""JSON rows of the command, compared with the Python API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpt_edge import Model
from tests.support.commands import Result
from tests.support.outcomes import done


def rows_of(text: str) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def answered(result: Result) -> list[dict[str, Any]]:
    """Return the answers of a command that had nothing to complain about."""
    return rows_of(done(result))


def agree(rows: list[dict[str, Any]], model: Model, texts: list[Any], tasks: list[str] | str) -> None:
    """Check that rows are the answers of the Python API."""
    expected = model.run(texts, tasks)
    assert [(row["task"], row["label"]) for row in rows] == [(answer.task, answer.label) for answer in expected]
    for row, answer in zip(rows, expected, strict=True):
        assert row["score"] == pytest.approx(answer.score, abs=1e-4)
        assert row["scores"] == pytest.approx(dict(answer.scores), abs=1e-4)


def write(path: Path, *rows: object) -> Path:
    """Write JSON lines; a row of bytes is written as it is."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
