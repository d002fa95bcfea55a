"""The documentation site: it builds without warnings or a network, and its flags are those of the command."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from mpt_edge.cli.app import build_app
from tests.support.blocks import examples
from tests.support.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = "".join(
    path.read_text(encoding="utf-8")
    for folder in ("attacks", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
)

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")

#: Programs in our pages that have flags of their own.
_OTHER_PROGRAMS = (
    "python benchmarks/",
    "python attacks/",
    "curl ",
    "docker ",
    "systemctl ",
    "optimum-cli",
    "pip ",
    "mkdocs ",
    "pytest ",
)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_reference", ROOT / "scripts" / "command_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(reference: ModuleType) -> dict[str, set[str]]:
    """Return the long flags of each command, by its full name."""
    root = typer.main.get_command(build_app())
    shared = {"--help", *(flag for each in root.params for flag in reference.flags(each))}
    return {
        name: shared | {flag for each in command.params for flag in reference.flags(each)}
        for name, command in reference.commands(root)
    }


def logical_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def test_the_command_reference_is_up_to_date(reference):
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python scripts/command_reference.py"


def test_every_flag_of_the_command_is_in_the_docs(options):
    said = {flag for path in PAGES for flag in _FLAG.findall(path.read_text(encoding="utf-8"))}
    missing = {flag for flags in options.values() for flag in flags if flag.startswith("--")} - said
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_flag_in_the_docs_is_one_of_the_command(path: Path, options):
    known = {flag for flags in options.values() for flag in flags}
    for line in logical_lines(path):
        if any(program in line for program in _OTHER_PROGRAMS):
            continue
        command = max((name for name in options if line.startswith(f"{name} ")), key=len, default=None)
        unknown = set(_FLAG.findall(line)) - (options[command] if command else known)
        unknown = {flag for flag in unknown if flag[2:].replace("-", "_") not in SCRIPTS}
        assert not unknown, line


def test_every_command_in_a_block_exists(options):
    for path in PAGES:
        for example in examples(path.read_text(encoding="utf-8")):
            for line in example.code.splitlines():
                if line.startswith("mpt-edge "):
                    assert any(f"{line} ".startswith(f"{name} ") for name in options), f"{path.name}: {line}"


def test_pages_point_to_nothing_outside_the_clone():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert "shared/" not in text.replace("`tests/support/`", ""), path.name
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (path.parent / link).resolve().is_relative_to(ROOT), f"{path.name}: {link}"


def test_the_site_builds_without_warnings_or_other_hosts(tmp_path: Path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?(?:https?:)?//', text), page.name
    shown = (tmp_path / "site" / "reference" / "tasks" / "index.html").read_text(encoding="utf-8")
    assert 'id="mpt_edge.Task.__call__"' in shown
