"""The lock between processes: it excludes, it ends with its process, and it leaves no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.formats.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from mpt_edge.formats.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_file_is_there_while_the_lock_is_held(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_the_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock"):
        _ = 1 / 0
    with locked(tmp_path / ".lock", wait=0):
        pass


def test_another_holder_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock"):
        started = time.monotonic()
        with (
            pytest.raises(InputError, match=f"another process has been changing {tmp_path} for 0.1 s; try again"),
            locked(tmp_path / ".lock", wait=0.1),
        ):
            pass
        assert time.monotonic() - started >= 0.1


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """Each thread reads, waits and writes; without exclusion, counts are lost."""
    count = tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(20):
            with locked(tmp_path / ".lock"):
                value = int(count.read_text())
                time.sleep(0.0005)
                count.write_text(str(value + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(InputError), locked(tmp_path / ".lock", wait=0):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path / ".lock", wait=5):
            pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs O_NOFOLLOW")
def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / ".lock", wait=0):
        pass
    assert not (tmp_path / "target").exists()
