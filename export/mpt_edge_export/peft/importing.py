"""From an adapter to a shared prompt and tasks, bit for bit in float32."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mpt_edge.errors import InputError, MismatchError, UnsupportedModelError
from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import PEFT_PLACEMENT, Layout, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import MIN_LENGTH, NAME, Inputs, TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.heads import Choice, Span
from mpt_edge.inference.heads.labels import label_problem
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone
from mpt_edge_export.peft.adapter import PeftAdapter
from mpt_edge_export.peft.heads import head_names, head_of
from mpt_edge_export.peft.task_types import Method

_NOUNS = {
    Family.ENCODER: "an encoder",
    Family.CAUSAL: "a decoder-only model",
    Family.SEQ2SEQ: "an encoder-decoder model",
}


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Facts that an adapter does not state."""

    tasks: Mapping[str, int] = field(default_factory=dict)
    """Names of the task ids to import; empty for all of them, named after the adapter."""
    name: str | None = None
    """Name of the shared prompt; None for the adapter's."""
    labels: Sequence[str] = ()
    """Names of the labels, in the head's order; empty for those of the base model's configuration. For a generative
    model, the texts of which it chooses one; empty to generate freely."""
    inputs: Inputs = Inputs.TEXT
    """Whether the tasks of an encoder read single texts or pairs."""
    max_length: int = 128
    """Maximum input length in tokens."""
    max_new_tokens: int | None = None
    """Maximum length of generated text in tokens; None for the default."""
    license: str | None = None
    """License of the data that the adapter was trained on."""
    version: int = 1
    """Release of the tasks."""


@dataclass(frozen=True)
class Imported:
    """Prompt and tasks of an imported adapter."""

    prompt: SharedPrompt | None
    """The shared prompt; None where each task carries its own."""
    tasks: list[TaskFile]
    """The task files."""
    warnings: list[str] = field(default_factory=list)
    """Omitted parts and doubts, one sentence each."""

    def save(self, folder: Path) -> None:
        """Write ``prompts/`` and ``tasks/``, as training leaves them."""
        vectors = VectorFolder(folder)
        if self.prompt is not None:
            vectors.save(self.prompt)
        for task in self.tasks:
            vectors.save(task)


def import_adapter(adapter: PeftAdapter, backbone: AnyBackbone, options: ImportOptions | None = None) -> Imported:
    """Turn an adapter into tasks of a backbone.

    A multitask adapter becomes a shared prompt that its tasks scale. Plain prompt tuning becomes a
    task that carries its own prompt, with ``u`` and ``v`` of ones. Values stay in float32.

    Args:
        adapter: the adapter that PEFT saved.
        backbone: the adapter's base model.
        options: names and other facts that the adapter does not state.

    Raises:
        InputError: a task id or a name cannot be used.
        MismatchError: the adapter belongs to a model of another width.
        CorruptFileError: its head is incomplete.
        UnsupportedModelError: the architecture cannot use it.
    """
    options = options or ImportOptions()
    _check_base(adapter, backbone)
    name = options.name or _file_name(adapter.source)
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot name a prompt; use letters, digits, dots, dashes and underscores.")
    shared = SharedPrompt(
        name=name,
        values=adapter.shared(),
        placement=_placement(backbone),
        backbone=backbone.fingerprint,
        training=_facts(adapter),
        license=options.license,
        head=head_of(adapter, backbone),
    )
    tasks = options.tasks or _default_names(adapter, name)
    files = [_task_file(adapter, backbone, shared, options, item) for item in tasks.items()]
    return Imported(shared if adapter.method is Method.MULTITASK else None, files, _warnings(adapter, backbone))


def _placement(backbone: AnyBackbone) -> Placement:
    """Return the placement in which a backbone gives the same answers as PEFT.

    In decoder-only models a prompt attends only to itself anyway, so it can be cached: that is the
    prefix layout. T5's encoder can be read both ways, so it takes PEFT's layout. Where positions are
    relative, the prompt may enter at the first layer, whose input the embeddings are.
    """
    if isinstance(backbone, EncoderBackbone):
        return PEFT_PLACEMENT
    layout = Layout.PREFIX if backbone.family is Family.CAUSAL else PEFT_PLACEMENT.layout
    absolute = backbone.model.positions_from_zero(PromptPosition.FIRST_LAYER)
    return Placement(layout, PEFT_PLACEMENT.position if absolute else PromptPosition.FIRST_LAYER)


def _check_base(adapter: PeftAdapter, backbone: AnyBackbone) -> None:
    """Check that an adapter can be used on a backbone. Raises UnsupportedModelError and MismatchError."""
    model = backbone.model
    if adapter.task_type.family is not backbone.family:
        raise UnsupportedModelError(
            f"{adapter.source} is a {adapter.task_type.name} adapter, which {backbone.id}, {_NOUNS[backbone.family]}, "
            "cannot run; pass its base model."
        )
    if adapter.prompt.shape[1] != model.hidden_size:
        raise MismatchError(
            f"{adapter.source} was trained on a model of width {adapter.prompt.shape[1]} "
            f"({adapter.base_model or 'not named'}), and {backbone.id} has {model.hidden_size}; pass its base model."
        )
    if hasattr(model.model, "embeddings_project"):
        raise UnsupportedModelError(
            f"{backbone.id} has narrower embeddings than layers, which PEFT's prompts do not fit; use another base "
            "model."
        )
    if adapter.length + MIN_LENGTH > model.max_positions:
        raise MismatchError(
            f"{adapter.source} has {adapter.length} virtual tokens, too many for {backbone.id}; pass its base model."
        )


def _warnings(adapter: PeftAdapter, backbone: AnyBackbone) -> list[str]:
    warnings = []
    if adapter.has_decoder_half:
        warnings.append(
            f"{adapter.source} has {adapter.length} further virtual tokens for the decoder's input, which PEFT's own "
            "generate ignores; they are left out."
        )
    name = (adapter.base_model or "").rstrip("/").rsplit("/", 1)[-1]
    if name and name != backbone.id.rsplit("/", 1)[-1]:
        warnings.append(f"{adapter.source} names {adapter.base_model} as its base model; {backbone.id} was passed.")
    return warnings


def _task_file(
    adapter: PeftAdapter, backbone: AnyBackbone, shared: SharedPrompt, options: ImportOptions, item: tuple[str, int]
) -> TaskFile:
    """Return the task of a name and id."""
    name, index = item
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} cannot name a task; use letters, digits, dots, dashes and underscores.")
    u, v = adapter.vectors(index)
    head_type = adapter.task_type.head_types[0]
    if head_type.is_generative and options.labels:
        head_type = Choice
    own = None if adapter.method is Method.MULTITASK else replace(shared, name=name)
    labels = _labels(adapter, backbone, shared, options, head_type)
    names = head_names(adapter.task_type, backbone)
    return TaskFile(
        name=name,
        head_type=head_type.name,
        inputs=_inputs(head_type, options),
        labels=labels,
        label_texts=tuple((label,) for label in labels) if head_type.has_label_texts else (),
        u=u,
        v=v,
        prompt=None if own else shared.name,
        prompt_sha256=None if own else shared.fingerprint,
        own_prompt=own,
        backbone=backbone.fingerprint,
        tokenizer=backbone.texts.fingerprint,
        template=adapter.template,
        max_length=min(options.max_length, backbone.max_length, backbone.model.max_positions - adapter.length),
        scale=1.0,
        training=_facts(adapter) | {"task_id": index} | ({"head": names} if names else {}),
        license=options.license,
        version=options.version,
        generation=_generation(head_type, options),
        token_types=not adapter.task_type.loses_task_ids,
    )


def _inputs(head_type: type[HeadType], options: ImportOptions) -> Inputs:
    if head_type is Span:
        return Inputs.PAIR
    return Inputs.TEXT if head_type.is_generative else options.inputs


def _generation(head_type: type[HeadType], options: ImportOptions) -> dict[str, Any]:
    limited = head_type.is_generative and options.max_new_tokens is not None
    return {"max_new_tokens": options.max_new_tokens} if limited else {}


def _labels(
    adapter: PeftAdapter,
    backbone: AnyBackbone,
    shared: SharedPrompt,
    options: ImportOptions,
    head_type: type[HeadType],
) -> tuple[str, ...]:
    """Return the names of a task's labels: the given ones, else those of the base model's configuration."""
    given = options.labels
    if head_type.is_generative:
        return _told_apart(options, head_type, backbone)
    if not head_type.min_labels:
        return ()
    count = shared.head.outputs if shared.head else 0
    if count < head_type.min_labels:
        raise UnsupportedModelError(
            f"{adapter.source} has a head of {count} output, a regression; only heads with two or more labels can "
            "be imported."
        )
    if given:
        if len(given) != count or len(set(given)) != count:
            raise InputError(f"{len(given)} labels were given and the head has {count}; name each of them once.")
        return _told_apart(options, head_type, backbone)
    known: Mapping[int, str] = AutoConfig.from_pretrained(backbone.folder, trust_remote_code=False).id2label or {}
    names = tuple(str(known.get(i, f"LABEL_{i}")) for i in range(count))
    return names if len(known) == count and len(set(names)) == count else tuple(f"LABEL_{i}" for i in range(count))


def _told_apart(options: ImportOptions, head_type: type[HeadType], backbone: AnyBackbone) -> tuple[str, ...]:
    """Return the labels that were given, after checking that they can be told apart. Raises InputError."""
    labels = tuple(options.labels)
    label_texts = [(label,) for label in labels] if head_type.has_label_texts else []
    fix = "pass other words with --label"
    problem = label_problem(backbone.texts, head_type, labels, label_texts, max_length=options.max_length, fix=fix)
    if problem is not None:
        raise InputError(problem)
    return labels


def _default_names(adapter: PeftAdapter, name: str) -> dict[str, int]:
    return {name: 0} if adapter.tasks == 1 else {f"{name}-{i}": i for i in range(adapter.tasks)}


def _file_name(source: str) -> str:
    """Return the last part of a path or hub id, as a name that leaves room for a task id."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).resolve().name)[:56].strip("._-")
    return name or "peft"


def _facts(adapter: PeftAdapter) -> dict[str, Any]:
    """Return an adapter's provenance, for task and prompt files."""
    facts = {
        "stage": "peft",
        "method": adapter.method,
        "task_type": adapter.task_type.name,
        "adapter": adapter.source,
        "revision": adapter.revision,
        "base_model": adapter.base_model,
        "ranks": 1 if adapter.rows is None else adapter.rows.shape[1],
    }
    return {key: value for key, value in facts.items() if value is not None}
