"""`mpt-edge serve`: its options and its errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.commands import run_here


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Return the arguments with which a server would run."""
    result: list[tuple] = []
    monkeypatch.setattr("mpt_edge.server.running.serve", lambda *given, **options: result.append((given, options)))
    return result


def test_options_become_limits(tiny_bundle: Path, tmp_path: Path, calls: list[tuple]) -> None:
    (tmp_path / "keys").write_text("admin:0123456789abcdef\n")
    done = run_here(
        "serve", "--bundle", tiny_bundle, "--port", 0, "--max-body", 5000, "--max-texts", 3, "--max-queue", 7,
        "--max-streams", 2, "--max-connections", 9, "--batch-size", 4, "--batch-tokens", 99, "--max-delay-ms", 1.5,
        "--grace", 3, "--api-key-file", tmp_path / "keys", "--allowed-host", "my.example", "--threads", 1,
        "--workers", 3,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (((load, address), options),) = calls
    assert load().bundle.folder == tiny_bundle
    assert (address.host, address.port, list(address.names)) == ("127.0.0.1", 0, ["my.example"])
    assert vars(options["limits"]) == {
        "body_bytes": 5000, "texts": 3, "queue": 7, "streams": 2, "connections": 9, "batch_texts": 4,
        "batch_tokens": 99, "workers": 3, "max_delay": 0.0015,
    }  # fmt: skip
    assert options["keys"].has_admin
    assert options["grace"] == 3


def test_a_network_without_keys_is_noted(tiny_bundle: Path, calls: list[tuple]) -> None:
    assert "whoever reaches 0.0.0.0" in run_here("serve", "--bundle", tiny_bundle, "--host", "0.0.0.0").stderr
    assert run_here("serve", "--bundle", tiny_bundle).stderr == ""


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    done = run_here("serve", "--bundle", tmp_path / "none", "--port", 0)
    assert done.returncode == 1
    assert "no bundle in" in done.stderr
    assert "ready" not in done.stdout


def test_a_queue_smaller_than_a_request(tiny_bundle: Path) -> None:
    done = run_here("serve", "--bundle", tiny_bundle, "--max-queue", 10)
    assert (done.returncode, "raise --max-queue" in done.stderr) == (1, True)


def test_a_missing_extra_is_named(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    done = run_here("serve", "--bundle", tiny_bundle)
    assert (done.returncode, "pip install 'mpt-edge[server]'" in done.stderr) == (1, True)


def test_the_command_does_not_load_the_server_for_others() -> None:
    code = "import sys, mpt_edge.cli.app; print(*[n for n in ('fastapi', 'uvicorn', 'pydantic') if n in sys.modules])"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
