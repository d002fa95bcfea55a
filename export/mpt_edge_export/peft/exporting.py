"""From tasks of a bundle to an adapter that PEFT loads: multitask, or folded into plain prompt tuning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mpt_edge._arrays import Floats
from mpt_edge._escapes import one_line
from mpt_edge._files import user_path
from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.bundle_reader import BundleReader
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.manifest import Family, Manifest
from mpt_edge.formats.markdown import front_matter, hub_link, literal, plain
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge_export.peft.adapter import CONFIG, SAFETENSORS
from mpt_edge_export.peft.heads import is_saved
from mpt_edge_export.peft.task_types import Method, TaskType, find_task_type

_CARD = """
# {name}

Tasks for {base}, exported from mpt-edge as PEFT's `{method}`.

| task id | task | labels |
| --: | --- | --- |
{rows}

```python
import torch
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained({loaded}{labels})
model = PeftModel.from_pretrained(base, {folder}).eval(){call}
```
"""


@dataclass(frozen=True)
class AdapterContent:
    """Tasks that go into one adapter, with the prompt that they scale."""

    tasks: Sequence[TaskFile]
    """At least one, in the order of their ids."""
    shared: SharedPrompt
    """P*, ``(l, d)``, float32, with the head of all tasks, if they have one."""
    task_type: TaskType
    """PEFT's task type."""
    base_model: str
    """Name by which PEFT loads the base model."""
    method: Method
    """PEFT's method; `Method.PLAIN` for one task whose prompt is composed."""


def export_adapter(
    bundle: BundleReader, names: Sequence[str], output: Path, *, fold: bool = False, base_model: str | None = None
) -> list[str]:
    """Write tasks as PEFT adapters.

    Args:
        bundle: a bundle with the prompt placement of PEFT.
        names: tasks that scale the same shared prompt; their order gives the task ids.
        output: the adapter's folder; each of several folded tasks gets a folder of its own in it.
        fold: whether to write each composed prompt as plain prompt tuning.
        base_model: name of the base model; None for the name it was imported or exported with.

    Returns:
        Limitations of the result in PEFT, one sentence each.

    Raises:
        InputError: no task is named, or the output is in use.
        UnknownTaskError: the bundle holds no such task.
        MismatchError: the tasks do not fit into one adapter.
        UnsupportedModelError: PEFT computes other answers for these tasks.
    """
    if not names:
        raise InputError("no task is named; pass the tasks to export with --task.")
    tasks, output = [bundle.task(name) for name in names], user_path(output)
    folders = [output / name for name in names] if fold and len(names) > 1 else [output]
    for folder in folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is in use; pass a new or empty folder.")
    groups = [[task] for task in tasks] if fold else [tasks]
    method = Method.PLAIN if fold else Method.MULTITASK
    contents = [_content(bundle, group, method, base_model) for group in groups]
    for content, folder in zip(contents, folders, strict=True):
        _write(bundle.manifest, content, folder)
    task_type = contents[0].task_type
    if task_type.loses_task_ids and not fold:
        return [f"PEFT's {task_type.name} models lose task ids, so this adapter fails there; pass --fold instead."]
    return []


def _content(bundle: BundleReader, tasks: list[TaskFile], method: Method, base_model: str | None) -> AdapterContent:
    """Collect the content of one adapter. Raises MismatchError and UnsupportedModelError."""
    prompts = [_prompt(bundle, task) for task in tasks]
    types = [_task_type(task, bundle.manifest.family) for task in tasks]
    problem = next(_problems(tasks, prompts, types), None)
    if problem is not None:
        raise MismatchError(
            f"the tasks {', '.join(task.name for task in tasks)} {problem}, and a PEFT adapter has one for all; "
            "export them one by one."
        )
    name = str(base_model or tasks[0].training.get("base_model") or bundle.manifest.backbone.get("id", ""))
    return AdapterContent(tasks, prompts[0], types[0], name, method)


def _problems(tasks: Sequence[TaskFile], prompts: Sequence[SharedPrompt], types: Sequence[TaskType]) -> Iterator[str]:
    """Yield the differences that keep tasks out of one adapter, each as the middle of a sentence."""
    shared = prompts[0]
    if any(not np.array_equal(shared.values, other.values) for other in prompts):
        yield "scale different shared prompts"
    if any(other is not types[0] for other in types):
        yield "are of different kinds"
    if len({task.u.shape for task in tasks}) > 1:
        yield "have different numbers of vectors"
    if any(not _is_same_head(shared.head, other.head) for other in prompts):
        yield "have different heads"


def _prompt(bundle: BundleReader, task: TaskFile) -> SharedPrompt:
    """Return the prompt that a task scales, with the head that it uses. Raises UnsupportedModelError."""
    shared = task.own_prompt or bundle.prompt(task.prompt)
    if not _is_computed_alike(bundle.manifest, shared.placement):
        raise UnsupportedModelError(
            f"{task.name!r} was trained in the {shared.placement.layout} layout with its prompt entering at "
            f"{shared.placement.position}; PEFT feeds prompts as word embeddings that attend to the text, where it "
            f"would answer differently. Train with --layout {PEFT_PLACEMENT.layout} --prompt-position "
            f"{PEFT_PLACEMENT.position} for PEFT."
        )
    has_head = task.head_class.outputs(len(task.labels)) is not None
    return replace(shared, values=shared.values.astype(np.float32), head=shared.head if has_head else None)


def _is_computed_alike(manifest: Manifest, placement: Placement) -> bool:
    """Whether PEFT computes the same with a prompt of this placement as the bundle."""
    if placement.position is PromptPosition.ALL_LAYERS:
        return False
    if manifest.generation is not None and manifest.family is Family.CAUSAL:
        return not manifest.generation.positions_from_zero
    # A T5's embeddings are the first layer's input, so for it both positions are the same.
    return placement.is_joint and (placement == PEFT_PLACEMENT or manifest.family is not Family.ENCODER)


def _task_type(task: TaskFile, family: Family) -> TaskType:
    task_type = find_task_type(task.head_class, family)
    if task_type is None:
        raise UnsupportedModelError(
            f"{task.name!r} has the head type {task.head_type}, which PEFT has no task type for; leave it out."
        )
    return task_type


def _is_same_head(one: LinearHead | None, other: LinearHead | None) -> bool:
    if one is None or other is None:
        return one is other
    tensors, others = one.tensors(), other.tensors()
    return tensors.keys() == others.keys() and all(np.array_equal(tensors[name], others[name]) for name in tensors)


def _write(manifest: Manifest, content: AdapterContent, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(content), folder / SAFETENSORS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(_config(manifest, content), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(content, folder), encoding="utf-8")


def _tensors(content: AdapterContent) -> dict[str, Floats]:
    tasks, shared = content.tasks, content.shared.values
    tensors = _head_tensors(tasks[0], content.shared.head)
    if content.method is Method.PLAIN:
        return tensors | {"prompt_embeddings": compose(shared, tasks[0].u, tasks[0].v)}
    tensors["prompt_embeddings"] = np.ascontiguousarray(shared)
    tensors["prefix_task_cols"] = np.stack([task.u.reshape(len(shared), -1) for task in tasks]).astype(np.float32)
    tensors["prefix_task_rows"] = np.stack([np.atleast_2d(task.v) for task in tasks]).astype(np.float32)
    return tensors


def _head_tensors(task: TaskFile, head: LinearHead | None) -> dict[str, Floats]:
    """Return the saved part of a head under PEFT's names."""
    if head is None:
        return {}
    names = task.training.get("head")
    if not isinstance(names, list) or len(names) != len(head.layers):
        raise UnsupportedModelError(f"the head of {task.name!r} has no names in the base model; import the task again.")
    layers = {str(name): layer for name, layer in zip(names, head.layers, strict=True)}
    return {
        f"base_model.{name}.{part}": np.ascontiguousarray(getattr(layer, part), np.float32)
        for name, layer in layers.items()
        if is_saved(name)
        for part in ("weight", "bias")
    }


def _config(manifest: Manifest, content: AdapterContent) -> dict[str, Any]:
    """Return the entries of PEFT's ``adapter_config.json``."""
    first = content.tasks[0]
    config: dict[str, Any] = {
        "base_model_name_or_path": content.base_model,
        "inference_mode": True,
        "num_attention_heads": manifest.heads,
        "num_layers": manifest.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": content.shared.length,
        "peft_type": content.method,
        # PEFT initializes a prompt in this way before it loads the values; a source file may be gone by then.
        "prompt_tuning_init": "RANDOM",
        "task_type": content.task_type.name,
        "token_dim": content.shared.values.shape[1],
    }
    if content.method is Method.PLAIN:
        return config
    return config | {"num_ranks": first.u.size // len(first.u), "num_tasks": len(content.tasks)}


def _card(content: AdapterContent, folder: Path) -> str:
    tasks = content.tasks
    licenses = sorted({task.license for task in tasks if task.license})
    labeled = content.shared.head is not None and tasks[0].labels
    multitask = content.method is Method.MULTITASK
    facts: Mapping[str, Any] = {
        "base": hub_link(content.base_model),
        "loaded": literal(content.base_model),
        "name": plain(folder.resolve().name),
        "method": content.method,
        "rows": "\n".join(
            f"| {i} | {plain(task.name)} | {plain(', '.join(task.labels) or '-')} |" for i, task in enumerate(tasks)
        ),
        "auto": content.task_type.auto_class,
        "labels": f", num_labels={len(tasks[0].labels)}" if labeled else "",
        "folder": literal(folder.resolve().name),
        "call": f"\ntask_ids = torch.tensor([0])  # {one_line(tasks[0].name)}, for one text" if multitask else "",
    }
    entries: dict[str, object] = {"base_model": content.base_model, "library_name": "peft"}
    entries |= {"license": licenses[0]} if len(licenses) == 1 else {}
    return front_matter(entries | {"tags": ["multitask-prompt-tuning"]}) + _CARD.format(**facts)
