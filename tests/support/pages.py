"""Running what a page of the documentation says.

PyTorch takes seconds to import, so commands of ours and Python code run in this process.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support import commands

#: Makes bash print the words of our command, as it would pass them.
_WORDS = 'mpt-edge() { printf "%s\\0" "$@"; }\n'


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script up to the first line that fails. Lines that pipe or redirect our command are left to bash."""
    printed = ""
    for line in re.sub(r"\\\n", " ", script).splitlines():
        if line.startswith("mpt-edge ") and not _operators(line):
            words = _bash(_WORDS + line, folder).stdout.split("\0")[:-1]
            done = commands.run_here(*words, cwd=folder)
        else:
            done = _bash(line, folder)
        printed += done.stdout
        if done.returncode:
            break
    return subprocess.CompletedProcess(script, done.returncode, printed, done.stderr)


def run_python(code: str, folder: Path) -> str:
    """Run code as a program of its own, and return what it prints."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), {"__name__": "__main__"})  # noqa: S102 - the code is that of our pages
    return printed.getvalue()


def _operators(line: str) -> list[str]:
    """Return a line's pipes, redirections and other control operators."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    return [word for word in words if word and set(word) <= set("();<>|&")]


def _bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
