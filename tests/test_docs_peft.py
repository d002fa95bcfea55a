"""docs/peft.md: every block runs, in order, in one folder."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import adapters
from tests.support.blocks import examples
from tests.support.places import ROOT


def test_every_block_runs_in_order(tmp_path: Path) -> None:
    adapters.save_base("bert", tmp_path / "my-bert")
    page = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")
    for ending, text in re.findall(r"```(toml|jsonl)\n(.*?)```", page, re.DOTALL):
        (tmp_path / f"book.{ending}").write_text(text)
    blocks = list(examples(page))
    printed = "".join(block.run(tmp_path) for block in blocks)
    languages = ["python", "sh", "python", "sh", "python", "python", "sh", "python"]
    assert [block.language for block in blocks] == languages
    assert "PEFT cannot load it\n(10, 32)\n" in printed
    assert "Prediction(task='book'" in printed
    folders = {path.name for path in tmp_path.iterdir()}
    assert {"reviews", "vectors", "bundle", "target", "back", "book-folded", "distilled", "fast"} <= folders
