"""The real `optimum-cli export mpt-edge`, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mpt_edge


def optimum(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "mpt-edge", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_export_writes_a_bundle_that_loads(
    tiny_folder: Path, tiny_vectors: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    done = optimum("--model", tiny_folder, "--vectors", tiny_vectors, output)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "3 tasks" in done.stdout
    found, expected = mpt_edge.load(output, threads=1), mpt_edge.load(tiny_bundle, threads=1)
    assert found.tasks == expected.tasks == ["same", "sentiment", "topic"]
    texts = ["a witty film", "the ball game"]
    for mine, theirs in zip(found.run(texts, "topic"), expected.run(texts, "topic"), strict=True):
        assert mine.label == theirs.label
        assert abs(mine.score - theirs.score) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_bad_model_name_is_one_sentence(tmp_path: Path) -> None:
    done = optimum("--model", "nobody/nothing-here", tmp_path / "bundle")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("optimum-cli: ")]
    assert len(lines) == 1
    assert "'nobody/nothing-here'" in lines[0]
    assert done.stderr.strip().endswith(lines[0])
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
