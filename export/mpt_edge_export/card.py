"""The bundle's card: training data, accuracy and size of each task."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.markdown import front_matter, hub_link, plain
from mpt_edge.formats.metrics import figures
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.formats.vectors import VectorFolder

_TAGS = ["multitask-prompt-tuning", "onnx"]

_HEAD = """
# {name}

Tasks for {base} (license: {license}). Each is two vectors `u`, `v` that scale the
shared prompt: `P_k = P* ∘ (u_k v_kᵀ)`. Attention layout: {layout}. Prompt position: {position}. l = {length},
d = {width}. `mpt-edge export` wrote this card from the task files.

"""

_COLUMNS = ("test examples", "bytes", "data license")

_RIGHTS = (
    "All figures are percentages on the test split, accuracy unless named, measured when training had ended. Vectors "
    "carry the license of their training data."
)

#: Title of each baseline, and what it is.
_BASELINES = {
    "linear_probe": (
        "linear probe",
        (
            "The linear probe is a logistic regression on embeddings without a prompt. It was trained on the same "
            "examples; its regularization and scaling were chosen on validation."
        ),
    ),
    "zero_shot": ("zero shot", "Zero shot is the model without a prompt, told what to do in a chat's system text."),
    "three_shot": ("three shot", "Three shot adds three training examples to that, as earlier turns of the chat."),
    "lora": ("LoRA", "LoRA has r = 8 on queries and values, and was trained on as many examples."),
}


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
    others = [name for name in _BASELINES if any(name in task.metrics for task in tasks.values())]
    lines = [["task", "labels", "ours", *(_BASELINES[name][0] for name in others), *_COLUMNS]]
    lines.append(["---", *["--:"] * (len(lines[0]) - 2), "---"])
    vectors = VectorFolder(folder)
    lines += [_row(task, others, vectors.task_path(name).stat().st_size) for name, task in tasks.items()]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    parts = [*(_BASELINES[name][1] for name in others), _RIGHTS]
    notes = textwrap.fill(" ".join(parts), 120, break_on_hyphens=False)
    sources = "".join(
        f"- {plain(name)}: {plain(task.training.get('source', 'not stated'))}\n" for name, task in tasks.items()
    )
    entries = {"library_name": "mpt-edge", "base_model": manifest.backbone["id"], "license": "other", "tags": _TAGS}
    card = f"{front_matter(entries)}{_HEAD.format(**facts)}{table}\n{notes}\n\nData:\n\n{sources}"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _row(task: TaskFile, others: Sequence[str], size: int) -> list[str]:
    """Return the table row of one task, with the figures of other methods."""
    test = task.metrics.get("test") or {}
    measured = [test, *(task.metrics.get(name, {}).get("test") for name in others)]
    examples = test.get("texts", test.get("examples", "-"))
    cells = [task.name, len(task.labels), *map(figures, measured), examples, f"{size:,}", task.license or "-"]
    return list(map(plain, cells))
