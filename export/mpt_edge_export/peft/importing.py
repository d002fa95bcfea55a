"""From an adapter to a shared prompt and tasks, bit for bit in float32."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.heads import Head
from mpt_edge.prompts import SharedPrompt
from mpt_edge.taskfile import NAME, TaskFile
from mpt_edge.training.backbones import Backbone
from mpt_edge_export.peft.adapter import MULTITASK, PeftAdapter
from mpt_edge_export.peft.heads import READOUTS, head_names, head_of

#: PEFT's layout and entry: prompt and text attend to each other, and the prompt enters in place of word embeddings.
LAYOUT, ENTRY = "joint", "inputs_embeds"

#: Task types whose forward in PEFT drops the segment ids, so that adapters were trained without them.
_WITHOUT_TYPES = ("QUESTION_ANS", "FEATURE_EXTRACTION")


@dataclass(frozen=True)
class ImportOptions:
    """What an adapter does not say.

    Attributes:
        tasks: names of the task ids to import; empty for all of them, named after the adapter.
        name: name of the shared prompt; empty for the adapter's.
        labels: names of the labels, in the head's order; empty for those of the base model's configuration.
        kind: ``"classification"`` for single texts, ``"pair"`` for pairs.
        max_length: longest text in tokens.
        licence: licence of the data the adapter was trained on.
    """

    tasks: Mapping[str, int] = field(default_factory=dict)
    name: str = ""
    labels: Sequence[str] = ()
    kind: str = "classification"
    max_length: int = 128
    licence: str = ""


@dataclass(frozen=True)
class Imported:
    """What an adapter became.

    Attributes:
        prompt: the shared prompt, or None where each task carries its own.
        tasks: the task files.
        warnings: what was left out, or looks wrong, one sentence each.
    """

    prompt: SharedPrompt | None
    tasks: list[TaskFile]
    warnings: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``prompts/`` and ``tasks/``, as training leaves them."""
        if self.prompt is not None:
            self.prompt.save(folder / "prompts" / f"{self.prompt.name}.safetensors")
        for task in self.tasks:
            task.save(folder / "tasks" / f"{task.name}.safetensors")


def import_adapter(adapter: PeftAdapter, backbone: Backbone, options: ImportOptions | None = None) -> Imported:
    """Turn an adapter into tasks of a backbone.

    A multitask adapter becomes a shared prompt that its tasks scale; plain prompt tuning becomes a
    task that carries its own prompt, with ``u`` and ``v`` of ones. Values stay in float32.

    Args:
        adapter: what PEFT saved.
        backbone: the adapter's base model.
        options: names and what else the adapter does not say.

    Raises:
        InputError: a task id or a name cannot be used.
        MismatchError: the adapter belongs to a model of another width.
        CorruptFileError: its head is not whole.
        UnsupportedModelError: the architecture cannot take it.
    """
    options = options or ImportOptions()
    warnings = _check(adapter, backbone)
    name = options.name or _file_name(adapter.source)
    head = head_of(adapter, backbone)
    shared = SharedPrompt(
        name=name,
        values=adapter.shared(),
        layout=LAYOUT,
        backbone=backbone.fingerprint,
        training=_facts(adapter),
        licence=options.licence,
        entry=ENTRY,
    )
    chosen = options.tasks or _default_names(adapter, name)
    files = [_task_file(adapter, backbone, shared, head, options, task, index) for task, index in chosen.items()]
    return Imported(shared if adapter.method == MULTITASK else None, files, warnings)


def _check(adapter: PeftAdapter, backbone: Backbone) -> list[str]:
    """Return warnings about an adapter that can be imported."""
    model = backbone.model
    if adapter.task_type not in READOUTS:
        raise UnsupportedModelError(f"{adapter.source} is a {adapter.task_type} adapter, but {backbone.id} an encoder.")
    if adapter.prompt.shape[1] != model.hidden_size:
        raise MismatchError(
            f"{adapter.source} was trained on a model of width {adapter.prompt.shape[1]} "
            f"({adapter.base_model or 'not named'}), and {backbone.id} has {model.hidden_size}; pass its base model."
        )
    if hasattr(model.model, "embeddings_project"):
        raise UnsupportedModelError(
            f"{backbone.id} has narrower embeddings than layers, which PEFT's prompts do not fit."
        )
    if adapter.length + 3 > model.max_positions:
        raise MismatchError(f"{adapter.source} has {adapter.length} virtual tokens, too many for {backbone.id}.")
    warnings = []
    named = adapter.base_model.rstrip("/").rsplit("/", 1)[-1]
    if named and named != backbone.id.rsplit("/", 1)[-1]:
        warnings.append(f"{adapter.source} names {adapter.base_model} as its base model; {backbone.id} was passed.")
    return warnings


def _task_file(
    adapter: PeftAdapter,
    backbone: Backbone,
    shared: SharedPrompt,
    head: Head | None,
    options: ImportOptions,
    name: str,
    index: int,
) -> TaskFile:
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot name a task; use letters, digits, dots, dashes and underscores.")
    u, v = adapter.vectors(index)
    readout = READOUTS[adapter.task_type]
    own = adapter.method != MULTITASK
    names = head_names(adapter.task_type, backbone)
    return TaskFile(
        name=name,
        kind="pair" if readout == "span" else options.kind,
        labels=_labels(backbone, head, options.labels, adapter) if readout in ("classifier", "tokens") else (),
        label_texts=(),
        u=u,
        v=v,
        prompt="" if own else shared.name,
        prompt_sha256="" if own else shared.fingerprint,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        readout=readout,
        template=adapter.template,
        max_length=min(options.max_length, backbone.max_length, backbone.model.max_positions - adapter.length),
        scale=1.0,
        own_prompt=shared.values if own else None,
        training=_facts(adapter) | {"task_id": index} | ({"head": names} if names else {}),
        licence=options.licence,
        layout=LAYOUT if own else "",
        entry=ENTRY if own else "",
        head=head,
        token_types=adapter.task_type not in _WITHOUT_TYPES,
    )


def _labels(backbone: Backbone, head: Head | None, given: Sequence[str], adapter: PeftAdapter) -> tuple[str, ...]:
    count = 0 if head is None else head.outputs
    if count < 2:
        raise UnsupportedModelError(
            f"{adapter.source} has a head of {count} output, a regression; only heads with two or more labels can "
            "be imported."
        )
    if given:
        if len(given) != count or len(set(given)) != count:
            raise InputError(f"{len(given)} labels were given and the head has {count}; name each of them once.")
        return tuple(given)
    known: Mapping[int, str] = AutoConfig.from_pretrained(backbone.folder).id2label or {}
    names = tuple(str(known.get(i, f"LABEL_{i}")) for i in range(count))
    return names if len(known) == count and len(set(names)) == count else tuple(f"LABEL_{i}" for i in range(count))


def _default_names(adapter: PeftAdapter, name: str) -> dict[str, int]:
    return {name: 0} if adapter.tasks == 1 else {f"{name}-{i}": i for i in range(adapter.tasks)}


def _file_name(source: str) -> str:
    """Return the last part of a path or hub id, with what no file name may hold replaced."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).resolve().name)[:56].strip("._-")
    return name or "peft"


def _facts(adapter: PeftAdapter) -> dict[str, Any]:
    facts = {
        "stage": "peft",
        "method": adapter.method,
        "task_type": adapter.task_type,
        "adapter": adapter.source,
        "revision": adapter.revision,
        "base_model": adapter.base_model,
        "ranks": 1 if adapter.rows is None else int(np.shape(adapter.rows)[1]),
    }
    return {key: value for key, value in facts.items() if value}
