"""Running the command: as users do, or in this process where only its answer to bad input counts."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from mpt_edge.cli import main

Result = subprocess.CompletedProcess[str]


def run(*arguments: object, **options: object) -> Result:
    """Run the real command, and capture what it prints."""
    command = [str(Path(sys.executable).with_name("mpt-edge")), *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload, no-any-return]


def run_here(*arguments: object, cwd: Path | None = None) -> Result:
    """Run the command in this process, which has PyTorch already: a new one takes seconds to import it."""
    command = ["mpt-edge", *map(str, arguments)]
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", command),
        contextlib.chdir(cwd or os.curdir),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(command, int(code or 0), stdout.getvalue(), stderr.getvalue())
