"""What a command's result must look like, whichever command it was."""

from __future__ import annotations

import subprocess

Result = subprocess.CompletedProcess[str]


def done(result: Result) -> str:
    """Return what a command printed that had nothing to complain about."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(result: Result, *, before: bool = False) -> str:
    """Return the one sentence on the error stream.

    Args:
        result: what came back from a command that had to fail.
        before: whether progress bars and warnings may stand before the sentence.
    """
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("mpt-edge: ")] == lines[-1:]
    assert before or len(lines) == 1, lines
    return lines[-1]
