"""The bundle's card: what each task was trained on, how good it is, and what it weighs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.metrics import headline, headline_text
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder

_HEAD = """---
library_name: mpt-edge
base_model: {base}
license: other
tags: [multitask-prompt-tuning, onnx]
---

# {name}

Tasks for [{base}](https://huggingface.co/{base}) (license: {license}), each two vectors `u`, `v` that scale the shared
prompt: `P_k = P* ∘ (u_k v_kᵀ)`. Layout {layout}, entry {entry}, l = {length}, d = {width}. `mpt-edge export` wrote
this card from the task files.

| task | labels | test accuracy | probe, same rows | difference | rows | bytes | data license |
| --- | --: | --: | --: | --: | --: | --: | --- |
"""

_FOOT = """
The probe is a logistic regression on the same frozen backbone's embeddings without a prompt; its strength and scaling
were chosen on validation. Differences are of figures before they were rounded. Rows are those of the test split,
measured when training had ended. Vectors carry the license of the data they were trained on.

Data:

{sources}
"""


def write_card(folder: Path, manifest: Manifest, tasks: Mapping[str, TaskFile]) -> None:
    """Write the card of a bundle in ``folder`` from the facts in its task files."""
    facts = {
        "name": manifest.name,
        "base": manifest.backbone["id"],
        "license": manifest.backbone["license"] or "not stated",
        "layout": manifest.layout,
        "entry": manifest.entry,
        "length": manifest.prompt_length,
        "width": manifest.hidden_size,
    }
    vectors = VectorFolder(folder)
    rows = [_row(task, vectors.task_path(name).stat().st_size) for name, task in tasks.items()]
    sources = "\n".join(f"- {name}: {task.training.get('source', 'not stated')}" for name, task in tasks.items())
    card = _HEAD.format(**facts) + "".join(rows) + _FOOT.format(sources=sources)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _row(task: TaskFile, size: int) -> str:
    test, probe = task.metrics.get("test"), task.metrics.get("probe", {}).get("test")
    found, known = headline(test), headline(probe)
    difference = f"{100 * (found[1] - known[1]):+.1f}" if found and known else "-"
    rows = (test or {}).get("rows", "-")
    shown = [headline_text(figures, 1, percent=True) for figures in (test, probe)]
    cells = [task.name, len(task.labels), *shown, difference, rows, f"{size:,}", task.license]
    return "| " + " | ".join(map(str, cells)) + " |\n"
