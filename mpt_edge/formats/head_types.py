"""Head types: the ways in which tasks answer, and what each needs of a task file.

This module has their common base and the registry. `mpt_edge.inference.heads` has the types.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, TypeVar

from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.prompts import SharedPrompt

_Type = TypeVar("_Type", bound="type[HeadType]")


class TaskContents(Protocol):
    """Fields of a task file that head types check."""

    @property
    def inputs(self) -> str:
        """``"text"`` or ``"pair"``."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the labels."""

    @property
    def label_texts(self) -> Sequence[Sequence[str]]:
        """For each label, the texts that stand for it."""

    @property
    def own_prompt(self) -> SharedPrompt | None:
        """The prompt that the task carries."""


class HeadType(ABC):
    """Base of all head types: requirements on task files and bundles."""

    name: ClassVar[str]
    """Name in task files and recipes."""
    is_generative: ClassVar[bool] = False
    """Whether it belongs to generative models; the others belong to encoders."""
    has_label_texts: ClassVar[bool] = False
    """Whether each label needs texts."""
    has_label_vectors: ClassVar[bool] = False
    """Whether each label has a vector in the file."""
    texts_per_label: ClassVar[int | None] = None
    """Number of a label's texts that are read, from the first one on; None for all."""
    min_labels: ClassVar[int] = 2

    @classmethod
    def outputs(cls, labels: int) -> int | None:  # noqa: ARG003
        """Return the number of outputs that a saved linear head must have; None for types without one."""
        return None

    @classmethod
    def problems(cls, task: TaskContents) -> Iterator[str]:
        """Yield what a task file lacks for this type, each as the end of a sentence."""
        # Label texts are read whatever the type, so those that are there must pair up with the labels.
        paired = len(task.labels) == len(task.label_texts) and all(task.label_texts)
        if (cls.has_label_texts or task.label_texts) and not paired:
            yield "labels and label texts do not pair up"
        if len(task.labels) < cls.min_labels or len(set(task.labels)) < len(task.labels):
            yield f"it needs at least {cls.min_labels} labels, all different"
        outputs = cls.outputs(len(task.labels))
        # A shared prompt may carry the head of all its tasks, which the task file cannot know.
        head = task.own_prompt.head if task.own_prompt else None
        if (head is not None and head.outputs != outputs) or (head is None and outputs and task.own_prompt):
            yield "its linear head does not fit the head type"

    @classmethod
    def misfits(cls, manifest: Manifest) -> Iterator[str]:
        """Yield what a bundle lacks for tasks of this type, as the rest of "made for another ..."."""
        if cls.is_generative != manifest.is_generative:
            yield f"kind of model than this {manifest.family} one"


_REGISTRY: dict[str, type[HeadType]] = {}


def register(head_type: _Type) -> _Type:
    """Make a head type known by its name; usable as a decorator."""
    _REGISTRY[head_type.name] = head_type
    return head_type


def find_head_type(name: str | None) -> type[HeadType] | None:
    """Return the head type of that name, or None."""
    return _REGISTRY.get(name or "")


def head_type_names() -> list[str]:
    """Return the names of all registered head types, sorted."""
    return sorted(_REGISTRY)
