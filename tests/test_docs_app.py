"""docs/app.md and the first block of docs/training.md: every command and all code runs, in order."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import shell
from tests.support.places import ROOT


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a clone looks, with the bundles of docs/app.md built."""
    folder = tmp_path_factory.mktemp("app") / "main"
    for kind in ("prompts", "tasks"):
        shutil.copytree(ROOT / "models" / "minilm-l6" / kind, folder / "models" / "minilm-l6" / kind)
    (script,) = blocks("app.md", "sh")
    done = shell(script, folder)
    assert done.returncode == 0, done.stderr
    assert "9 tasks are as they were made" in done.stdout
    return folder


def test_the_app(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("app.md", "python"))],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first.startswith("positive ")
    assert first.endswith(" False")
    assert others == [
        "['number', 'human']",
        "['negative', 'play music']",
        "1 positive",
        "no task 'sst3' in bundles/app; did you mean 'sst2'?",
    ]


def test_a_task_of_your_own(clone: Path) -> None:
    page = blocks("training.md", "sh")[0]
    texts = {"delivery": "where is my parcel, it never came", "payment": "the card was charged twice this week"}
    rows = [f'"{text} {i}",{label}' for label, text in texts.items() for i in range(8)]
    for split in ("train", "validation"):
        path = clone / "data" / "mine" / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["message,topic", *rows]), encoding="utf-8")
    (clone / "mine.toml").write_text(blocks("training.md", "toml")[0])
    shutil.copytree(clone / "bundles" / "app", clone / "models" / "minilm-l6", dirs_exist_ok=True)
    done = shell(page, clone)
    assert done.returncode == 0, done.stderr
    assert "installed mine" in done.stdout
    assert "delivery" in done.stdout.splitlines()[-1]
