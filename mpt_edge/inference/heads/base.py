"""Base of head types on the device, and the tasks and requests that they work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, TypeVar, cast

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError, MptEdgeError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.linear_head import LinearHead
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer, Prediction
from mpt_edge.inference.generation.constraints import Constraint
from mpt_edge.inference.generation.opening import Opening
from mpt_edge.inference.numerics import softmax
from mpt_edge.inference.runtime.kv_cache import PromptCache
from mpt_edge.inference.text import Encoded

_Result = TypeVar("_Result")


class Display(StrEnum):
    """How `mpt-edge run` prints an answer."""

    LABEL = "label"
    """In a column as wide as the task's longest label."""
    PHRASE = "phrase"
    """In a column of fixed width."""
    BLOCK = "block"
    """Below its input, in full."""


class Head(HeadType):
    """One selected task's way to answer; made by ``prepare`` of its subclasses."""

    answer_type: ClassVar[type[Answer]] = Prediction
    """Class of the answers."""
    display: ClassVar[Display] = Display.LABEL


@dataclass(frozen=True)
class ComposedTask:
    """A task with its composed prompt."""

    file: TaskFile
    placement: Placement
    """Attention layout and position of the prompt."""
    prompt: Floats = field(repr=False)
    """Composed prompt, ``(l, d)``, or ``(l, layers, d)`` where it enters all layers."""
    cache: PromptCache = field(repr=False)
    """Keys and values of the prompt; empty in the joint layout of encoders."""
    linear_head: LinearHead | None = field(default=None, repr=False)
    """Saved head of the task or of its shared prompt."""


@dataclass(frozen=True)
class SelectedTask(ComposedTask):
    """A composed task with its prepared head."""

    head: Head = field(kw_only=True)
    opening: Opening | None = field(default=None, kw_only=True)
    """Beginning of all inputs, where it is read with the prompt."""


@dataclass(frozen=True)
class Request:
    """A tokenized text for a task."""

    row: Encoded
    task: SelectedTask
    options: GenerationOptions | None = None
    """Options of generative models; None for encoders."""
    constraint: Constraint | None = None
    """Constraint on the generated text."""


def predict(task: TaskFile, logits: Floats, row: Encoded, *, are_cosines: bool = False) -> Prediction:
    """Return the likeliest label of a row's logits ``(labels,)``, or of its cosine similarities to the labels."""
    probs = softmax(logits * task.scale)
    best = int(logits.argmax())
    score = float(probs[best])
    return Prediction(
        task=task.name,
        label=task.labels[best],
        score=score,
        scores=dict(zip(task.labels, map(float, probs), strict=True)),
        similarities=dict(zip(task.labels, map(float, logits), strict=True)) if are_cosines else {},
        abstain=task.threshold is not None and score < task.threshold,
        **row.notes,
    )


def check_finite(task: TaskFile, cache: PromptCache) -> None:
    """Check the keys and values of a task's prompt. Raises MismatchError for one that overflows."""
    if not all(np.isfinite(array).all() for array in cache.values()):
        raise MismatchError(f"the keys and values of {task.name!r} overflow; install the task's original file.")


def all_valid(results: Sequence[_Result | MptEdgeError]) -> list[_Result]:
    """Return results without errors. Raises the first error, with the number of its text."""
    for i, result in enumerate(results, start=1):
        if isinstance(result, InputError):
            raise InputError(f"text {i}: {result}") from result
        if isinstance(result, MptEdgeError):
            raise result
    return cast("list[_Result]", list(results))
