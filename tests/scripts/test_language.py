"""Bounds on the README, the sources' language, and the layout of the tree."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def language() -> ModuleType:
    spec = importlib.util.spec_from_file_location("language", ROOT / "scripts" / "language.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["language"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(language):
    return language.read_sources(ROOT)


def test_the_readme_is_short(language):
    readme = language.read_readme((ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme.words <= 900
    assert readme.mean <= 13
    assert max(readme.lengths) <= 25, max(readme.sentences, key=lambda sentence: len(sentence.split()))


@pytest.mark.parametrize(("group", "bound"), [("what", 1.0), ("behind", 0.3)])
def test_rates_of_words(sources, group, bound):
    assert sources.rate(group) <= bound


def test_docstrings_state_and_do_not_ask(sources):
    assert sources.docstrings > 500
    assert sources.question_docstrings == []


def test_files_and_functions_are_short(sources):
    assert sources.long_files == []
    assert sources.median_body <= 6
    longest = sources.longest(commands=False)
    assert longest.lines <= 46, longest


def test_imports_point_downward(sources):
    assert len(sources.imports) > 50
    assert sources.upward() == []
    assert sources.circles() == []


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def test_a_readme_is_measured_as_stated(language):
    readme = language.read_readme(
        "# A title of six words here\n\nOne two three. Four [five six](https://example.org/seven) `eight`!\n\n"
        "| a | table |\n| --- | --- |\n\n- an item of five words\n- two words\n\n```sh\ncode. More code.\n```\n"
    )
    assert readme.sentences == ["One two three.", "Four five six `eight`!", "an item of five words", "two words"]
    assert readme.lengths == [3, 4, 5, 2]
    assert readme.words == 38


def test_sources_are_measured_as_stated(language, tmp_path):
    write(
        tmp_path,
        "mpt_edge/formats/files.py",
        '''
        """What lies behind it."""

        from typing import TYPE_CHECKING

        from mpt_edge.cli import app

        if TYPE_CHECKING:
            from mpt_edge.inference import model


        def read():
            """Read `what` is there."""
            # The most important, which is a comment.
            one = 1  # noqa: F841

            return one
        ''',
    )
    write(tmp_path, "mpt_edge/formats/tasks.py", "from mpt_edge.formats import vectors\n")
    write(tmp_path, "mpt_edge/formats/vectors.py", "def late():\n    from mpt_edge.formats.tasks import name\n")
    write(tmp_path, "mpt_edge/inference/model.py", "x = 1\n" * 401)
    write(tmp_path, "mpt_edge/cli/app.py", "")
    sources = language.read_sources(tmp_path)
    assert sources.words == 14
    assert {group for group, count in sources.counts.items() if count} == {"what", "behind", "stand/lie", "most/least"}
    assert sources.question_docstrings == ["mpt_edge/formats/files.py:2: What lies behind it."]
    assert [(function.place.split(": ")[1], function.lines) for function in sources.functions] == [
        ("read", 3),
        ("late", 1),
    ]
    assert sources.long_files == ["mpt_edge/inference/model.py: 401 lines"]
    assert sources.upward() == ["mpt_edge.formats.files -> mpt_edge.cli.app"]
    assert sources.circles() == [["mpt_edge.formats.tasks", "mpt_edge.formats.vectors"]]
