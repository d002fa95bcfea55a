"""The command as a user without name and home folder, or as one whom file permissions bind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.commands import Result

#: A user id that no system gives away.
NOBODY = 54321

_NAMELESS = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    # The interpreter may lie in the home folder of root.
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
_BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def run_nameless(*arguments: object, home: str | None = None, cwd: Path | None = None) -> Result:
    """Run the command under a user id without an entry, who reads every file and owns none."""
    environment = {name: value for name, value in os.environ.items() if not _is_of_home(name)}
    environment |= {} if home is None else {"HOME": home}
    return _run(_NAMELESS, arguments, env=environment, cwd=cwd)


def run_bound(*arguments: object) -> Result:
    """Run the command as this user, without root's right to read and write everything."""
    return _run(_BOUND if os.geteuid() == 0 else (), arguments)


@cache
def has_users() -> bool:
    """Whether this process may run others as a user without an entry, and without root's rights."""
    return shutil.which("setpriv") is not None and all(
        subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        for prefix in (_NAMELESS, _BOUND)
    )


def _is_of_home(name: str) -> bool:
    return name in ("HOME", "MPT_EDGE_BUNDLE") or name.startswith(("XDG_", "HF_"))


def _run(prefix: tuple[str, ...], arguments: tuple[object, ...], **options: object) -> Result:
    command = [*prefix, sys.executable, "-m", "mpt_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload, no-any-return]
