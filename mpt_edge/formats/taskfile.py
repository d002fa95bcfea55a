"""The task file: two vectors and everything needed to use them.

A task file is one safetensors file with tensors ``u`` and ``v`` and string metadata. A task with its
own prompt adds ``prompt``, one with a saved head ``head.*``, and one with label vectors ``labels.*``. With
l = 100, d = 384, float16 and up to ten labels it stays below 4 KB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from mpt_edge._arrays import Stored
from mpt_edge._files import read_small, user_path
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import tensors
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.head_types import HeadType, find_head_type
from mpt_edge.formats.label_vectors import LABEL_TENSORS, LabelVectors
from mpt_edge.formats.limits import MAX_LENGTH, length_problem, text_problems
from mpt_edge.formats.metrics import are_metrics
from mpt_edge.formats.prompts import MAX_PROMPT_BYTES, SharedPrompt, length_and_width, parse_prompt, scaled_shape
from mpt_edge.formats.signature import Signature

#: Format entry of a task file.
FORMAT = "mpt-edge task 1"

#: Size limit of a task file: one with a prompt of the largest size, its vectors and texts.
MAX_TASK_BYTES = MAX_PROMPT_BYTES + (1 << 20)

#: Largest scale. Trained ones are below 200, and scales far above this overflow float32.
MAX_SCALE = 1_000_000

#: Highest version of a task.
MAX_VERSION = (1 << 31) - 1

_VERSION = re.compile(r"[1-9][0-9]{0,9}")

#: Fewest tokens that ``max_length`` may be.
MIN_LENGTH = 3

#: Task names are file names, so they must stay in one folder on every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Inputs(StrEnum):
    """Input of a task: one text, or a pair of texts."""

    TEXT = "text"
    PAIR = "pair"

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Placeholders that a template needs."""
        return ("{text}", "{text_pair}") if self is Inputs.PAIR else ("{text}",)


class Side(StrEnum):
    """Side on which a long text is truncated."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """One task, as ``tasks/<name>.safetensors`` holds it.

    >>> task = Bundle.open("models/minilm-l6").task("sst2")
    >>> task.labels
    ('negative', 'positive')
    """

    name: str
    """At most 64 characters of ``[A-Za-z0-9._-]``."""
    head_type: str
    """Name of the head type; see `mpt_edge.inference.heads`."""
    inputs: Inputs = Inputs.TEXT
    """One text, or a pair."""
    labels: tuple[str, ...] = ()
    """Names of the labels; empty for tasks without."""
    label_texts: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """For each label, the texts that stand for it."""
    label_vectors: LabelVectors | None = field(default=None, repr=False)
    """For each label a vector, where no texts stand for them."""
    u: Stored = field(repr=False)
    """Scale of each virtual token, shape ``(l,)``; ``(l, r)`` for r pairs of vectors, PEFT's ranks."""
    v: Stored = field(repr=False)
    """Scale of each channel, shape ``(d,)``; ``(r, d)`` for r pairs."""
    prompt: str | None = None
    """Name of the shared prompt."""
    prompt_sha256: str | None = field(default=None, repr=False)
    """Fingerprint of the shared prompt."""
    own_prompt: SharedPrompt | None = field(default=None, repr=False)
    """A prompt, with its placement and head, that this task carries and scales instead of a shared one."""
    backbone: str = field(repr=False)
    """Fingerprint of the frozen model."""
    tokenizer: str = field(repr=False)
    """Fingerprint of the tokenizer."""
    template: str | None = field(default=None, repr=False)
    """Text with ``{text}`` and ``{text_pair}``; None for the input as it is."""
    chat: ChatFrame | None = field(default=None, repr=False)
    """Text around the filled template, special tokens included, as the model's chat template writes it."""
    truncation_side: Side = field(default=Side.RIGHT, repr=False)
    """Side on which a long text is cut, for head types that keep the template whole."""
    max_length: int = field(default=128, repr=False)
    """Maximum input length in tokens, special tokens included."""
    scale: float = field(default=20.0, repr=False)
    """Factor on similarities or logits before the softmax."""
    threshold: float | None = field(default=None, repr=False)
    """Probability below which the likeliest label is unsure, 0 to 1; None where none was fitted."""
    version: int = 1
    """Release of the task, 1 to `MAX_VERSION`; it rises with each."""
    reference_example: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """``{"text": a text or a list of two, "label": ..., "score": ...}``; `mpt-edge tasks verify` answers it."""
    metrics: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Measured metrics, such as ``{"test": {"accuracy": 0.83}}``."""
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Provenance: data, stage, seed."""
    license: str | None = field(default=None, repr=False)
    """License of the training data."""
    generation: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Entries of `GenerationOptions`, for tasks that generate text."""
    token_types: bool = field(default=True, repr=False)
    """Whether segment ids mark the second text of a pair, where the backbone reads them."""
    digest: str = field(default="", repr=False, compare=False)
    """Content hash of the file that it was read from; signing changes it not."""
    signature: Signature | None = field(default=None, repr=False, compare=False)
    """Signature of the file that it was read from, not yet checked; `save` writes none."""

    def __post_init__(self) -> None:
        """Refuse vectors, names and labels of other types. Raises InputError."""
        if not isinstance(self.u, np.ndarray) or not isinstance(self.v, np.ndarray):
            raise InputError("u and v of a task are numpy arrays; pass these, in float16 or float32.")
        if not isinstance(self.name, str) or isinstance(self.labels, str):
            raise InputError("a task has a str as its name and a tuple of labels; pass these.")

    @property
    def head_class(self) -> type[HeadType]:
        """The head type's class. Raises CorruptFileError for an unknown name."""
        result = find_head_type(self.head_type)
        if result is None:
            raise CorruptFileError(f"the task {self.name!r} has the unknown head type {self.head_type!r}.")
        return result

    @property
    def is_two_vectors(self) -> bool:
        """Whether the task is u and v alone, on a prompt shared with others."""
        return self.own_prompt is None

    @property
    def contents(self) -> str:
        """Components of the task in words, such as ``"u, v"``."""
        parts = ["u, v" if self.u.ndim == 1 else f"{self.v.shape[0]} pairs of u, v"]
        parts += [] if self.label_vectors is None else [f"vectors of {len(self.label_vectors)} labels"]
        parts += [] if self.own_prompt is None else ["its own prompt"]
        parts += ["a head"] if self.own_prompt and self.own_prompt.head else []
        return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the task as one safetensors file, atomically; missing folders are made."""
        own, head = self.own_prompt, self.own_prompt.head if self.own_prompt else None
        arrays: dict[str, tensors.Array] = {"u": self.u, "v": self.v}
        arrays |= {"prompt": own.values} if own else {}
        arrays |= head.tensors() if head else {}
        arrays |= self.label_vectors.tensors() if self.label_vectors else {}
        metadata = {
            "format": FORMAT,
            "task": self.name,
            "head_type": self.head_type,
            "inputs": self.inputs,
            "labels": list(self.labels),
            "label_levels": self.label_vectors and self.label_vectors.levels,
            "label_texts": [list(texts) for texts in self.label_texts],
            "template": self.template,
            "chat": self.chat.entries() if self.chat else None,
            "truncation_side": self.truncation_side if self.truncation_side is Side.LEFT else None,
            "max_length": self.max_length,
            "scale": self.scale,
            "threshold": self.threshold,
            "prompt": self.prompt,
            "prompt_sha256": self.prompt_sha256,
            "layout": own.placement.layout if own else None,
            "prompt_position": own.placement.position if own else None,
            "backbone": self.backbone,
            "tokenizer": self.tokenizer,
            "version": self.version,
            "reference_example": dict(self.reference_example),
            "metrics": dict(self.metrics),
            "training": dict(self.training),
            "license": self.license,
            "token_types": None if self.token_types else "ignored",
            "head": head.activations if head else None,
            "generation": dict(self.generation) or None,
        }
        tensors.write(user_path(path), arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskFile:
        """Read a task file. Raises CorruptFileError for any other file."""
        file = user_path(path)
        return cls.parse(read_small(file, MAX_TASK_BYTES), str(file))

    @classmethod
    def parse(cls, data: bytes, source: str) -> TaskFile:
        """Read a task file's bytes; ``source`` names it in messages.

        Raises:
            CorruptFileError: the bytes are no task file, or one that contradicts itself.
        """
        arrays, metadata = tensors.parse(data, source)
        if metadata.get("format") != FORMAT:
            found = metadata.get("format", "no format entry")
            raise CorruptFileError(
                f"{source} is not a task file this version reads (found {found!r}, expected "
                f"{FORMAT!r}); pass tasks/<name>.safetensors or upgrade mpt-edge."
            )
        u, v = (arrays.get(name, np.empty(0, np.float32)) for name in ("u", "v"))
        task = cls(
            name=metadata.get("task", ""),
            head_type=metadata.get("head_type", ""),
            inputs=_member(Inputs, metadata, "inputs", Inputs.TEXT, source),
            labels=tuple(map(str, tensors.structured(metadata, "labels", list, source))),
            label_texts=_label_texts(metadata, source),
            label_vectors=LabelVectors.parse(arrays, metadata.get("label_levels"), source),
            u=u,
            v=v,
            prompt=metadata.get("prompt"),
            prompt_sha256=metadata.get("prompt_sha256"),
            own_prompt=_own_prompt(arrays, metadata, source),
            backbone=metadata.get("backbone", ""),
            tokenizer=metadata.get("tokenizer", ""),
            template=metadata.get("template"),
            chat=_chat(metadata, source),
            truncation_side=_member(Side, metadata, "truncation_side", Side.RIGHT, source),
            max_length=tensors.number(metadata, "max_length", int, source),
            scale=tensors.number(metadata, "scale", float, source),
            threshold=tensors.number(metadata, "threshold", float, source) if "threshold" in metadata else None,
            version=_version(metadata, source),
            reference_example=tensors.structured(metadata, "reference_example", dict, source),
            metrics=tensors.structured(metadata, "metrics", dict, source),
            training=tensors.structured(metadata, "training", dict, source),
            license=metadata.get("license"),
            generation=tensors.structured(metadata, "generation", dict, source),
            token_types=metadata.get("token_types") != "ignored",
            digest=metadata[tensors.HASH],
            signature=_signature(metadata, source),
        )
        problem = next(task._problems(), None)
        if problem is not None:
            raise CorruptFileError(f"{source}: {problem}; train or export the task again.")
        return task

    def _problems(self) -> Iterator[str]:
        """Yield contradictions in the file, each as the end of a sentence."""
        if NAME.fullmatch(self.name) is None:
            yield f"the name {self.name[:80]!r} is not allowed"
        if (head_type := find_head_type(self.head_type)) is None:
            yield f"head type {self.head_type!r} is unknown"
            return
        if scaled_shape(self.u, self.v) is None:
            yield "u and v are not two vectors"
        if self.template is not None and not all(part in self.template for part in self.inputs.placeholders):
            yield f"its template lacks {' or '.join(self.inputs.placeholders)}"
        yield from self._chat_problems(head_type)
        yield from head_type.problems(self)
        yield from self._label_vector_problems(head_type)
        if self.own_prompt is not None and length_and_width(self.own_prompt.values) != scaled_shape(self.u, self.v):
            yield "its own prompt does not fit u and v"
        if not self._has_valid_generation():
            yield "its generation entries cannot be used"
        yield from self._limit_problems()
        if not 0 < self.scale <= MAX_SCALE:
            yield f"scale is not a positive number up to {MAX_SCALE}"
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            yield "its threshold is no probability"
        if not are_metrics(self.metrics):
            yield "its metrics are not numbers by name"

    def _label_vector_problems(self, head_type: type[HeadType]) -> Iterator[str]:
        vectors = self.label_vectors
        if head_type.has_label_vectors is not (vectors is not None):
            yield f"its head type {self.head_type!r} and its label vectors do not go together"
        elif vectors is not None and not vectors.fits(len(self.labels), self.v.shape[-1]):
            yield "its label vectors do not fit its labels"

    def _chat_problems(self, head_type: type[HeadType]) -> Iterator[str]:
        if self.chat and not head_type.is_generative:
            yield "a chat is for generative models"
        if self.chat and self.template is None and self.inputs is Inputs.PAIR:
            yield "a pair without a template is no message of a chat"

    def _limit_problems(self) -> Iterator[str]:
        if self.max_length < MIN_LENGTH:
            yield f"max_length is below {MIN_LENGTH}"
        if self.max_length > MAX_LENGTH:
            yield f"max_length is above {MAX_LENGTH:,}"
        yield from length_problem(len(self.u))
        for template in (self.template, *((self.chat.before, self.chat.after) if self.chat else ())):
            yield from text_problems(self.labels, self.label_texts, template)

    def _has_valid_generation(self) -> bool:
        try:
            GenerationOptions.parse(self.generation)
        except InputError:
            return False
        return True


def _version(metadata: Mapping[str, str], source: str) -> int:
    """Return the version. Raises CorruptFileError for any other text."""
    text = metadata.get("version", "")
    if _VERSION.fullmatch(text) is None or int(text) > MAX_VERSION:
        raise CorruptFileError(
            f"{source}: its version is no whole number from 1 to {MAX_VERSION:,}; train it again with --task-version."
        )
    return int(text)


def _own_prompt(arrays: Mapping[str, Stored], metadata: Mapping[str, str], source: str) -> SharedPrompt | None:
    """Return the prompt that a task file carries. Raises CorruptFileError for an incomplete one."""
    if "prompt" not in arrays:
        described = {"head", "layout", "prompt_position"} & set(metadata)
        if described or set(arrays) - {"u", "v", *LABEL_TENSORS}:
            raise CorruptFileError(f"{source} describes a prompt of its own and holds none; import the task again.")
        return None
    prompt = parse_prompt(arrays, metadata, source, metadata.get("task", ""))
    if prompt is None:
        raise CorruptFileError(
            f"{source}: its own prompt does not fit its layout and prompt position; train or import the task again."
        )
    return prompt


def _label_texts(metadata: Mapping[str, str], source: str) -> tuple[tuple[str, ...], ...]:
    """Return each label's texts, none for an entry that is no list. Raises CorruptFileError for no list at all."""
    groups = tensors.structured(metadata, "label_texts", list, source)
    return tuple(tuple(map(str, group)) if isinstance(group, list) else () for group in groups)


def _chat(metadata: Mapping[str, str], source: str) -> ChatFrame | None:
    """Return the text around messages. Raises CorruptFileError for entries that are none."""
    if "chat" not in metadata:
        return None
    try:
        return ChatFrame.parse(tensors.structured(metadata, "chat", dict, source))
    except InputError as error:
        raise CorruptFileError(f"{source}: {error}") from error


def _signature(metadata: Mapping[str, str], source: str) -> Signature | None:
    """Return a file's signature, unchecked. Raises CorruptFileError for an entry that is none."""
    text = metadata.get(tensors.SIGNATURE)
    return None if text is None else Signature.parse(text, metadata[tensors.HASH], source)


def _member(kind: Any, metadata: Mapping[str, str], key: str, default: Any, source: str) -> Any:
    """Return a metadata value as a member of an enumeration. Raises CorruptFileError for other values."""
    value = metadata.get(key, default)
    if value not in list(kind):
        raise CorruptFileError(f"{source}: {key} {value!r} is unknown; train or export the task again.")
    return kind(value)
