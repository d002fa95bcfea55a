"""Passphrases of private keys: from the environment, from a terminal, and refused where there is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.cli import private_keys
from mpt_edge.cli.private_keys import PASSPHRASE, load_signer, new_passphrase
from mpt_edge.errors import InputError
from mpt_edge.formats.signing import Signer


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer the terminal's questions, and return them."""
    asked: list[str] = []

    def prompt(text: str, **_: object) -> str:
        asked.append(text)
        return "typed"

    monkeypatch.setattr(private_keys.typer, "prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return asked


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)


def test_key_without_passphrase_asks_nothing(tmp_path: Path, answers: list[str]) -> None:
    created = Signer.create(tmp_path / "key.pem", new_passphrase(is_requested=False))
    assert load_signer(tmp_path / "key.pem").public == created.public
    assert answers == []


def test_passphrase_of_a_terminal(tmp_path: Path, answers: list[str]) -> None:
    created = Signer.create(tmp_path / "key.pem", new_passphrase(is_requested=True))
    assert load_signer(tmp_path / "key.pem").public == created.public
    assert answers == ["Passphrase", f"Passphrase of {tmp_path / 'key.pem'}"]


@pytest.mark.parametrize("is_requested", [True, False])
def test_passphrase_of_the_environment(
    tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch, is_requested: bool
) -> None:
    monkeypatch.setenv(PASSPHRASE, "secret")
    created = Signer.create(tmp_path / "key.pem", new_passphrase(is_requested=is_requested))
    assert load_signer(tmp_path / "key.pem").public == created.public
    assert answers == []
    monkeypatch.setenv(PASSPHRASE, "other")
    with pytest.raises(InputError, match="check the passphrase"):
        load_signer(tmp_path / "key.pem")


def test_no_terminal_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    Signer.create(tmp_path / "key.pem", "secret")
    with pytest.raises(InputError, match=f"no terminal to ask for the passphrase of .*key.pem; set {PASSPHRASE}"):
        load_signer(tmp_path / "key.pem")
    with pytest.raises(InputError, match=f"no terminal to choose a passphrase; set {PASSPHRASE}"):
        new_passphrase(is_requested=True)
