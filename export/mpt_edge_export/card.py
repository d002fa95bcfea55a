"""The bundle's card: training data, accuracy and size of each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.markdown import front_matter, hub_link, plain
from mpt_edge.formats.metrics import headline, headline_text
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder

_TAGS = ["multitask-prompt-tuning", "onnx"]

_HEAD = """
# {name}

Tasks for {base} (license: {license}). Each is two vectors `u`, `v` that scale the
shared prompt: `P_k = P* ∘ (u_k v_kᵀ)`. Attention layout: {layout}. Prompt position: {position}. l = {length},
d = {width}. `mpt-edge export` wrote this card from the task files.

| task | labels | test accuracy | linear probe | difference | test examples | bytes | data license |
| --- | --: | --: | --: | --: | --: | --: | --- |
"""

_FOOT = """
The linear probe is a logistic regression on the embeddings of the same frozen backbone without a prompt. It was
trained on the same examples; its regularization and scaling were chosen on validation. Differences are computed before
rounding. The test split was measured when training had ended. Vectors carry the license of their training data.

Data:

{sources}
"""


def write_card(folder: Path, manifest: Manifest, tasks: Mapping[str, TaskFile]) -> None:
    """Write the card of a bundle in ``folder`` from the facts in its task files."""
    facts = {
        "name": plain(manifest.name),
        "base": hub_link(manifest.backbone["id"]),
        "license": plain(manifest.backbone.get("license", "not stated")),
        "layout": manifest.placement.layout,
        "position": manifest.placement.position,
        "length": manifest.prompt_length,
        "width": manifest.hidden_size,
    }
    vectors = VectorFolder(folder)
    rows = [_row(task, vectors.task_path(name).stat().st_size) for name, task in tasks.items()]
    sources = "\n".join(
        f"- {plain(name)}: {plain(task.training.get('source', 'not stated'))}" for name, task in tasks.items()
    )
    entries = {"library_name": "mpt-edge", "base_model": manifest.backbone["id"], "license": "other", "tags": _TAGS}
    card = front_matter(entries) + _HEAD.format(**facts) + "".join(rows) + _FOOT.format(sources=sources)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _row(task: TaskFile, size: int) -> str:
    """Return the table row of one task."""
    test, probe = task.metrics.get("test"), task.metrics.get("linear_probe", {}).get("test")
    result, baseline = headline(test), headline(probe)
    difference = f"{100 * (result[1] - baseline[1]):+.1f}" if result and baseline else "-"
    examples = (test or {}).get("examples", "-")
    metrics = [headline_text(each, 1, percent=True) for each in (test, probe)]
    cells = [task.name, len(task.labels), *metrics, difference, examples, f"{size:,}", task.license or "-"]
    return "| " + " | ".join(map(plain, cells)) + " |\n"
