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
from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.prompts import Entry, Layout, SharedPrompt
from mpt_edge.formats.taskfile import NAME, TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge_export.peft.adapter import MULTITASK, PeftAdapter
from mpt_edge_export.peft.heads import READOUT_OF, head_names, head_of

#: PEFT's layout and entry: prompt and text attend to each other, and the prompt enters in place of word embeddings.
LAYOUT, ENTRY = Layout.JOINT, Entry.INPUTS_EMBEDS

#: Families of base models by task type; all others are of encoders.
_FAMILIES = {"CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "seq2seq"}

_CALLED = {"causal": "a decoder-only model", "seq2seq": "an encoder-decoder model", "encoder": "an encoder"}

#: Task types whose forward in PEFT takes segment ids and task ids and drops both, so that adapters were trained
#: without segments and are run one task at a time.
DROPPING = ("QUESTION_ANS", "FEATURE_EXTRACTION")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an adapter does not say.

    Attributes:
        tasks: names of the task ids to import; empty for all of them, named after the adapter.
        name: name of the shared prompt; empty for the adapter's.
        labels: names of the labels, in the head's order; empty for those of the base model's configuration.
            For a model that generates, the texts of which it chooses one; empty to write freely.
        kind: ``"classification"`` for single texts, ``"pair"`` for pairs.
        max_length: longest text in tokens.
        max_new_tokens: longest text to write, in tokens; 0 for the default.
        license: license of the data the adapter was trained on.
    """

    tasks: Mapping[str, int] = field(default_factory=dict)
    name: str = ""
    labels: Sequence[str] = ()
    kind: str = "classification"
    max_length: int = 128
    max_new_tokens: int = 0
    license: str = ""


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
        vectors = VectorFolder(folder)
        if self.prompt is not None:
            vectors.save(self.prompt)
        for task in self.tasks:
            vectors.save(task)


def import_adapter(adapter: PeftAdapter, backbone: AnyBackbone, options: ImportOptions | None = None) -> Imported:
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
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot name a prompt; use letters, digits, dots, dashes and underscores.")
    head = head_of(adapter, backbone)
    layout, entry = _placement(backbone)
    shared = SharedPrompt(
        name=name,
        values=adapter.shared(),
        layout=layout,
        backbone=backbone.fingerprint,
        training=_facts(adapter),
        license=options.license,
        entry=entry,
        head=head,
    )
    chosen = options.tasks or _default_names(adapter, name)
    files = [_task_file(adapter, backbone, shared, head, options, task, index) for task, index in chosen.items()]
    return Imported(shared if adapter.method == MULTITASK else None, files, warnings)


def _placement(backbone: AnyBackbone) -> tuple[Layout, Entry]:
    """Return the layout and the entry in which a backbone reads prompts as it does in PEFT.

    In decoder-only models prompt rows see prompt rows alone anyway, so they can be cached, which is the
    prefix layout; and where positions are relative, it does not matter from where the text is counted.
    T5's encoder reads both ways, and its word embeddings are the first layer's input.
    """
    if not isinstance(backbone, GenerativeBackbone):
        return LAYOUT, ENTRY
    layout = Layout.PREFIX if backbone.family == "causal" else LAYOUT
    return layout, ENTRY if backbone.model.positions_from_zero(Entry.FIRST_LAYER) else Entry.FIRST_LAYER


def _check(adapter: PeftAdapter, backbone: AnyBackbone) -> list[str]:
    """Return warnings about an adapter that can be imported."""
    model = backbone.model
    if _FAMILIES.get(adapter.task_type, "encoder") != backbone.family:
        raise UnsupportedModelError(
            f"{adapter.source} is a {adapter.task_type} adapter, which {backbone.id}, {_CALLED[backbone.family]}, "
            "cannot run; pass its base model."
        )
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
    warnings = _left_out(adapter)
    named = adapter.base_model.rstrip("/").rsplit("/", 1)[-1]
    if named and named != backbone.id.rsplit("/", 1)[-1]:
        warnings.append(f"{adapter.source} names {adapter.base_model} as its base model; {backbone.id} was passed.")
    return warnings


def _left_out(adapter: PeftAdapter) -> list[str]:
    if not adapter.has_decoder_half:
        return []
    warning = (
        f"{adapter.source} has {adapter.length} further virtual tokens for the decoder's input, which PEFT's own "
        "generate ignores; they are left out."
    )
    return [warning]


def _task_file(
    adapter: PeftAdapter,
    backbone: AnyBackbone,
    shared: SharedPrompt,
    head: Head | None,
    options: ImportOptions,
    name: str,
    index: int,
) -> TaskFile:
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot name a task; use letters, digits, dots, dashes and underscores.")
    u, v = adapter.vectors(index)
    writes = adapter.task_type in _FAMILIES
    readout = "choice" if writes and options.labels else READOUT_OF[adapter.task_type]
    if writes:
        labels = tuple(options.labels)
    else:
        labels = _labels(backbone, head, options.labels, adapter) if readout in ("classifier", "tokens") else ()
    own = adapter.method != MULTITASK
    names = head_names(adapter.task_type, backbone)
    return TaskFile(
        name=name,
        kind="pair" if readout == "span" else "generation" if writes else options.kind,
        labels=labels,
        label_texts=tuple((label,) for label in labels) if writes else (),
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
        license=options.license,
        layout=shared.layout if own else "",
        entry=shared.entry if own else "",
        head=head if own else None,
        generation={"max_new_tokens": options.max_new_tokens} if writes and options.max_new_tokens else {},
        token_types=adapter.task_type not in DROPPING,
    )


def _labels(backbone: AnyBackbone, head: Head | None, given: Sequence[str], adapter: PeftAdapter) -> tuple[str, ...]:
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
