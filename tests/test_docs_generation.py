"""docs/generation.md: every block runs, in order, on a few rows of the real task and real weights."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import shell
from tests.support.places import ROOT, SHARED

PAGE = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no ../shared/weights")


def test_every_block(tmp_path: Path) -> None:
    folder = tmp_path / "main"
    shutil.copytree(ROOT / "models" / "recipes", folder / "models" / "recipes")
    data = tmp_path / "shared" / "data" / "e2e_clean"
    data.mkdir(parents=True)
    (tmp_path / "shared" / "weights").symlink_to(SHARED / "weights")
    for split in ("train", "validation", "test"):
        lines = (SHARED / "data" / "e2e_clean" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        (data / f"{split}.jsonl").write_text("\n".join(lines[: 96 if split == "train" else 8]), encoding="utf-8")
    script, code = (re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1] for language in ("sh", "python"))
    done = shell(script, folder)
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime agrees with PyTorch" in done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["task"] == "e2e_clean"
    assert answer["finish"] in ("eos", "length")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Generation(") == 2
