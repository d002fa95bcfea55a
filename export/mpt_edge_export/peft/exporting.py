"""From tasks of a bundle to an adapter folder that PEFT loads: multitask, or folded into plain prompt tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.prompts import Entry, Layout, SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge_export.peft.adapter import CONFIG, MULTITASK, PLAIN, SAFETENSORS
from mpt_edge_export.peft.heads import READOUT_OF
from mpt_edge_export.peft.importing import DROPPING, ENTRY, LAYOUT

_AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}

_CARD = """---
base_model: {base}
library_name: peft
{license}tags: [multitask-prompt-tuning]
---

# {name}

Tasks for [{base}](https://huggingface.co/{base}), exported from mpt-edge as PEFT's `{method}`.

| task id | task | labels |
| --: | --- | --- |
{rows}

```python
import torch
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{base}"{labels})
model = PeftModel.from_pretrained(base, "{folder}").eval(){call}
```
"""


@dataclass(frozen=True)
class Source:
    """Tasks that go into one adapter, with the prompt they scale.

    Attributes:
        tasks: at least one, in the order of their ids.
        shared: P*, ``(l, d)``, float32, with the head of all tasks, if they have one.
        task_type: PEFT's.
        base_model: what PEFT loads the base model by.
    """

    tasks: Sequence[TaskFile]
    shared: SharedPrompt
    task_type: str
    base_model: str


def export_adapter(
    bundle: Bundle, names: Sequence[str], output: Path, *, fold: bool = False, base_model: str = ""
) -> list[str]:
    """Write tasks as PEFT adapters.

    Args:
        bundle: a bundle whose prompts enter as PEFT feeds them.
        names: tasks that scale the same shared prompt; their order gives the task ids.
        output: the adapter's folder; folded, each of several tasks gets a folder of its own in it.
        fold: write each composed prompt as plain prompt tuning.
        base_model: what to call the base model; empty for the name it was imported or exported with.

    Returns:
        Warnings about what PEFT cannot do with the result, one sentence each.

    Raises:
        InputError: no task is named, or the output is in use.
        UnknownTaskError: the bundle holds no such task.
        MismatchError: the tasks do not fit into one adapter.
        UnsupportedModelError: PEFT reads prompts in another way than these tasks.
    """
    if not names:
        raise InputError("no task is named; pass the tasks to export with --task.")
    tasks = [bundle.task(name) for name in names]
    for folder in [output / name for name in names] if fold and len(names) > 1 else [output]:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is in use; pass a new or empty folder.")
    if fold:
        for task in tasks:
            source = _source(bundle, [task], base_model)
            _write(bundle, source, output / task.name if len(tasks) > 1 else output, fold=True)
        return []
    source = _source(bundle, tasks, base_model)
    _write(bundle, source, output, fold=False)
    if source.task_type in DROPPING:
        return [f"PEFT's {source.task_type} models lose task ids, so this adapter fails there; pass --fold instead."]
    return []


def _source(bundle: Bundle, tasks: list[TaskFile], base_model: str) -> Source:
    first = tasks[0]
    shared = [_shared(bundle, task) for task in tasks]
    types = [_task_type(task, bundle.manifest.family) for task in tasks]
    problems = {
        "scale different shared prompts": any(not np.array_equal(shared[0].values, other.values) for other in shared),
        "are of different kinds": len(set(types)) > 1,
        "have different numbers of vectors": len({(task.u.ndim, task.u.shape) for task in tasks}) > 1,
        "have different heads": any(not _same_head(shared[0].head, other.head) for other in shared),
    }
    for problem, found in problems.items():
        if found:
            raise MismatchError(
                f"the tasks {', '.join(task.name for task in tasks)} {problem}, and a PEFT adapter has one for all; "
                "export them one by one."
            )
    named = str(first.training.get("base_model") or bundle.manifest.backbone.get("id", ""))
    return Source(tasks, shared[0], types[0], base_model or named)


def _shared(bundle: Bundle, task: TaskFile) -> SharedPrompt:
    """Return the prompt and the head that a task uses, if PEFT would read them in the same way."""
    shared = task.whole_prompt() or bundle.prompt(task.prompt)
    if not _read_alike(bundle.manifest, shared.layout, shared.entry):
        raise UnsupportedModelError(
            f"{task.name!r} was trained in the {shared.layout} layout with its prompt entering at {shared.entry}; PEFT "
            "feeds prompts as word embeddings that attend to the text, where it would answer differently. Train with "
            "--layout joint --entry inputs_embeds for PEFT."
        )
    head = (task.head or shared.head) if READOUTS[task.readout].head else None
    return replace(shared, values=shared.values.astype(np.float32), head=head)


def _read_alike(manifest: Manifest, layout: Layout, entry: Entry) -> bool:
    """Whether PEFT reads a prompt of this layout and entry as the bundle does."""
    if entry == Entry.EVERY_LAYER:
        return False
    if manifest.generation is not None and manifest.family == "causal":
        return not manifest.generation.positions_from_zero
    return layout == LAYOUT and (entry == ENTRY or manifest.family != "encoder")


def _task_type(task: TaskFile, family: str) -> str:
    known = {readout: task_type for task_type, readout in READOUT_OF.items()} | {"similarity": "FEATURE_EXTRACTION"}
    known |= dict.fromkeys(("generation", "choice"), "CAUSAL_LM" if family == "causal" else "SEQ_2_SEQ_LM")
    if task.readout not in known:
        raise UnsupportedModelError(
            f"{task.name!r} answers by its {task.readout}, which PEFT has no task type for; leave it out."
        )
    return str(task.training.get("task_type") or known[task.readout])


def _same_head(one: Head | None, other: Head | None) -> bool:
    if one is None or other is None:
        return one is other
    parts, others = one.tensors(), other.tensors()
    return parts.keys() == others.keys() and all(np.array_equal(parts[name], others[name]) for name in parts)


def _write(bundle: Bundle, source: Source, folder: Path, *, fold: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(bundle, source, fold=fold)
    save_file(_tensors(source, fold=fold), folder / SAFETENSORS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(source, folder, fold=fold), encoding="utf-8")


def _tensors(source: Source, *, fold: bool) -> dict[str, Floats]:
    tasks, shared, tensors = source.tasks, source.shared.values, _head_tensors(source.tasks[0], source.shared.head)
    if fold:
        return tensors | {"prompt_embeddings": compose(shared, tasks[0].u, tasks[0].v)}
    tensors["prompt_embeddings"] = np.ascontiguousarray(shared)
    tensors["prefix_task_cols"] = np.stack([task.u.reshape(len(shared), -1) for task in tasks]).astype(np.float32)
    tensors["prefix_task_rows"] = np.stack([np.atleast_2d(task.v) for task in tasks]).astype(np.float32)
    return tensors


def _head_tensors(task: TaskFile, head: Head | None) -> dict[str, Floats]:
    """Return the head under the names that PEFT gives it; BERT's pooler stays with the base model."""
    if head is None:
        return {}
    names = task.training.get("head")
    if not isinstance(names, list) or len(names) != len(head.layers):
        raise UnsupportedModelError(f"the head of {task.name!r} has no names in the base model; import the task again.")
    parts = [(str(name), layer) for name, layer in zip(names, head.layers, strict=True)]
    kept = [(name, layer) for name, layer in parts if not name.startswith("pooler.")]
    return {
        f"base_model.{name}.{part}": np.ascontiguousarray(getattr(layer, part), np.float32)
        for name, layer in kept
        for part in ("weight", "bias")
    }


def _config(bundle: Bundle, source: Source, *, fold: bool) -> dict[str, Any]:
    manifest, first = bundle.manifest, source.tasks[0]
    config: dict[str, Any] = {
        "base_model_name_or_path": source.base_model,
        "inference_mode": True,
        "num_attention_heads": manifest.heads,
        "num_layers": manifest.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(source.shared.values),
        "peft_type": PLAIN if fold else MULTITASK,
        # PEFT starts a prompt as this says before it loads the values, and a source file may be gone by then.
        "prompt_tuning_init": "RANDOM",
        "task_type": source.task_type,
        "token_dim": source.shared.values.shape[1],
    }
    return config if fold else config | {"num_ranks": first.u.size // len(first.u), "num_tasks": len(source.tasks)}


def _card(source: Source, folder: Path, *, fold: bool) -> str:
    tasks = source.tasks
    licenses = sorted({task.license for task in tasks if task.license})
    labeled = source.shared.head is not None and tasks[0].labels
    facts: Mapping[str, Any] = {
        "base": source.base_model,
        "license": f"license: {licenses[0]}\n" if len(licenses) == 1 else "",
        "name": folder.resolve().name,
        "method": PLAIN if fold else MULTITASK,
        "rows": "\n".join(f"| {i} | {task.name} | {', '.join(task.labels) or '-'} |" for i, task in enumerate(tasks)),
        "auto": _AUTO[source.task_type],
        "labels": f", num_labels={len(tasks[0].labels)}" if labeled else "",
        "folder": folder.resolve().name,
        "call": "" if fold else f"\ntask_ids = torch.tensor([0])  # {tasks[0].name}, for one row",
    }
    return _CARD.format(**facts)
