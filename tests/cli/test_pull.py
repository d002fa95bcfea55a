"""`mpt-edge pull`: what it prints, and its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpt_edge.formats.bundle import Bundle
from tests.support.commands import run_here
from tests.support.hub import COMMIT, Hub, running
from tests.support.outcomes import done, refused

NAME = "owner/tiny"


@pytest.fixture
def hub(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(tmp_path / "cache", monkeypatch) as hub:
        hub.put(NAME, tiny_bundle)
        yield hub


@pytest.mark.usefixtures("hub")
def test_bundle(tmp_path: Path) -> None:
    printed = done(run_here("pull", NAME, cwd=tmp_path))
    bundle = Bundle.open(tmp_path / "models" / "tiny")
    size = sum(entry["size"] for entry in bundle.manifest.files.values())
    count = len(bundle.manifest.files)
    place = Path("models", "tiny")
    assert printed == f"pulled {NAME} at {COMMIT} to {place} ({count} files, {size:,} bytes; digest {bundle.digest})\n"
    again = ("pull", f"hf://{NAME}@{COMMIT}", "--output", tmp_path / "app", "--digest", bundle.digest, "--offline")
    assert f"to {tmp_path / 'app'} (" in done(run_here(*again))
    assert "already holds a bundle; pass --force" in refused(run_here(*again))
    assert "good" in done(
        run_here("run", "--bundle", tmp_path / "app", "--task", "sentiment", "--json", "a witty film")
    )


@pytest.mark.usefixtures("hub")
def test_tasks(tmp_path: Path) -> None:
    printed = done(run_here("pull", NAME, "--task", "topic", "--task", "same", cwd=tmp_path))
    assert printed.splitlines() == [
        f"pulled {name}, version 1, at {COMMIT} to {Path('tasks', f'{name}.safetensors')}" for name in ("topic", "same")
    ]
    sentence = refused(run_here("pull", NAME, "--task", "topic", "--precision", "int8"))
    assert "--precision and --digest are those of a bundle" in sentence


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tiny"], "'tiny' names no repository of a hub; write owner/name"),
        (["owner/other"], "the hub has no repository owner/other, or it is private"),
        ([NAME, "--revision", "v9"], f"{NAME} has no revision 'v9'"),
        ([NAME, "--offline"], "and the network is off; pull it once without --offline"),
        ([NAME, "--precision", "int8"], f"{NAME} has no int8 graph, only float32"),
        ([NAME, "--task", "topics"], f"no task 'topics' in {NAME}; did you mean 'topic'?"),
        ([NAME, "--digest", "0" * 64], "is required; name the revision that has it"),
    ],
)
def test_sentences(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(run_here("pull", *arguments, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []
