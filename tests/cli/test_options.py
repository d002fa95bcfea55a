"""Options that commands share: their paths are read as the Python API reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mpt_edge.cli.options import BundleFolder, Commands, PrecisionOption, Threads
from mpt_edge.errors import InputError

Seen = dict[str, object]


@pytest.fixture
def seen() -> Seen:
    return {}


@pytest.fixture
def app(seen: Seen) -> Commands:
    commands = Commands()

    @commands.command()
    def show(
        files: Annotated[list[Path] | None, typer.Argument()] = None,
        bundle: BundleFolder = None,
        precision: PrecisionOption = None,
        threads: Threads = None,
        text: str = "",
    ) -> None:
        seen.update(files=files, bundle=bundle, precision=precision, threads=threads, text=text)

    return commands


def test_paths_from_a_home_folder(app: Commands, seen: Seen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["~/a", "b", "--bundle=~/c", "--text=~/d"])
    assert result.exit_code == 0, result.output
    assert seen["files"] == [tmp_path / "a", Path("b")]
    assert seen["bundle"] == tmp_path / "c"
    assert seen["text"] == "~/d"  # it is no path


def test_path_from_a_home_folder_that_is_not_there(app: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "relative")
    result = CliRunner().invoke(app, ["~/a"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == (
        "~/a starts from a home folder, and there is none; set HOME, or write the whole path."
    )


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--threads", "two"], ["--precision", "float8"]])
def test_values_that_no_command_takes(app: Commands, seen: Seen, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert seen == {}


def test_values_are_typed(app: Commands, seen: Seen) -> None:
    assert CliRunner().invoke(app, ["--threads", "2", "--precision", "int8"]).exit_code == 0
    assert (seen["threads"], seen["precision"]) == (2, "int8")
