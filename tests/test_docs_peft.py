"""docs/peft.md: every block runs, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support import adapters

PAGE = Path(__file__).parents[1] / "docs" / "peft.md"


def test_every_block_runs_in_order(tmp_path: Path) -> None:
    adapters.save_base("bert", tmp_path / "my-bert")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    page = PAGE.read_text(encoding="utf-8")
    for ending, text in re.findall(r"```(toml|jsonl)\n(.*?)```", page, re.DOTALL):
        (tmp_path / f"book.{ending}").write_text(text)
    blocks = re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL)
    printed = ""
    for language, code in blocks:
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        printed += done.stdout
    assert [language for language, _ in blocks] == ["python", "sh", "python", "sh", "python", "python", "sh", "python"]
    assert "PEFT cannot load it\n(10, 32)\n" in printed
    assert "Prediction(task='book'" in printed
    folders = {path.name for path in tmp_path.iterdir()}
    assert {"reviews", "vectors", "bundle", "target", "back", "book-folded", "distilled", "fast"} <= folders
