"""The command, in a process of its own as users call it, or in this one."""

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


def run_here(*arguments: object, cwd: Path | None = None, input: str = "") -> Result:  # noqa: A002 - as run has it
    """Run the command in this process. A new one takes half a second, and seconds more to import PyTorch."""
    command = ["mpt-edge", *map(str, arguments)]
    stdin, stdout, stderr = (io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (input.encode(), b"", b""))
    with (
        patch.object(sys, "argv", command),
        patch.object(sys, "stdin", stdin),
        contextlib.chdir(cwd or os.curdir),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code
    printed = []
    for stream in (stdout, stderr):
        stream.flush()
        printed.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(command, int(code or 0), *printed)
