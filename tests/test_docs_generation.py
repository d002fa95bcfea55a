"""docs/generation.md: every block runs, in order, on a few examples of the real task and real weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.blocks import examples
from tests.support.places import ROOT, SHARED

MODEL = "tinystories-656k-llama"

pytestmark = pytest.mark.skipif(not (SHARED / "weights" / MODEL).is_dir(), reason="needs the model's weights")


def test_every_block(tmp_path: Path):
    shutil.copytree(ROOT / "models" / "recipes", tmp_path / "models" / "recipes")
    (tmp_path / MODEL).symlink_to(SHARED / "weights" / MODEL)
    data = tmp_path / "datasets" / "e2e_clean"
    data.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = (SHARED / "data" / "e2e_clean" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        (data / f"{split}.jsonl").write_text("\n".join(lines[: 96 if split == "train" else 8]), encoding="utf-8")
    script, code, constrained, constrained_code = examples(
        (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    )
    printed = script.run(tmp_path)
    assert "ONNX Runtime agrees with PyTorch" in printed
    answer = json.loads(printed.splitlines()[-1])
    assert answer["task"] == "e2e_clean"
    assert answer["finish"] in ("eos", "length")
    assert code.run(tmp_path).splitlines()[-1].split()[-2] in ("eos", "length")
    sentence, choice = constrained.run(tmp_path).splitlines()
    assert re.fullmatch(r"[A-Z][a-z ]{5,40}\.", sentence)
    assert json.loads(json.loads(choice)["output"]) in ("pub", "restaurant")
    kind, reply = constrained_code.run(tmp_path).splitlines()
    assert json.loads(kind) in ("pub", "restaurant", "coffee shop")
    assert reply in ("yes", "no")
