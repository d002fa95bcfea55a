"""Prompts and tasks of a bundle: collected from folders, and checked against the backbone and each other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.manifest import Manifest
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.taskfile import NAME, TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.heads.labels import check_task_labels
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.opening import AnyBackbone

#: Positions that a generative model must have left: a token of text, and two more by which the graph is compared.
_MIN_ROOM = 3

#: Virtual tokens of the random prompt by which a bundle without tasks is compared.
_RANDOM_LENGTH = 10

_Vectors = TypeVar("_Vectors", SharedPrompt, TaskFile)


@dataclass(frozen=True)
class Contents:
    """Prompts and tasks that go into one bundle.

    Raises:
        MismatchError: some prompts enter at one position and some at another. A graph has one.
    """

    prompts: Mapping[str, SharedPrompt]
    """Shared prompts by name."""
    tasks: Mapping[str, TaskFile]
    """Tasks by name."""

    def __post_init__(self) -> None:
        """Refuse prompts of different positions."""
        names = {prompt.placement.position: prompt.name for prompt in self._all_prompts}
        if len(names) > 1:
            (one, first), (other, second) = list(names.items())[:2]
            raise MismatchError(
                f"the prompt of {first!r} enters at {one} and that of {second!r} at {other}, and a graph has one "
                "prompt position; export them into two bundles."
            )

    @property
    def placement(self) -> Placement:
        """Placement of the first prompt; the default one where there is no prompt."""
        return next((prompt.placement for prompt in self._all_prompts), Placement())

    @property
    def shared_length(self) -> int:
        """Virtual tokens of the first shared prompt; 0 without one."""
        return next((prompt.length for prompt in self.prompts.values()), 0)

    @property
    def max_length(self) -> int:
        """Virtual tokens of the longest prompt, those that tasks carry included; 0 without one."""
        return max((prompt.length for prompt in self._all_prompts), default=0)

    @property
    def head_type(self) -> str | None:
        """Head type of all tasks; None where they differ or there are none."""
        names = {task.head_type for task in self.tasks.values()}
        return names.pop() if len(names) == 1 else None

    @property
    def _all_prompts(self) -> list[SharedPrompt]:
        """Shared prompts, then those that tasks carry."""
        return [*self.prompts.values(), *(task.own_prompt for task in self.tasks.values() if task.own_prompt)]

    def composed(self, manifest: Manifest) -> list[Floats]:
        """Return the composed prompt of every task; one random prompt where there is no task."""
        if self.tasks:
            return [
                compose((task.own_prompt or self.prompts[task.prompt or ""]).values, task.u, task.v)
                for task in self.tasks.values()
            ]
        length = max(1, min(_RANDOM_LENGTH, manifest.max_length // 2))  # a model may have hardly any positions
        return [np.random.default_rng(0).standard_normal(manifest.prompt_shape(length)).astype(np.float32)]


def collect(folders: Sequence[Path], backbone: AnyBackbone) -> Contents:
    """Read all prompts and tasks of some folders; those of later folders replace earlier ones.

    Raises:
        InputError: a file has another name than its content, or a name that no bundle can list.
        MismatchError: a prompt or task belongs to another backbone, tokenizer or shared prompt, or
            enters at another position than the others.
    """
    prompts: dict[str, SharedPrompt] = {}
    tasks: dict[str, TaskFile] = {}
    for vectors in map(VectorFolder, folders):
        for name, path in vectors.prompt_files.items():
            prompts[name] = _check_name(name, path, SharedPrompt.load(path))
        for name, path in vectors.task_files.items():
            tasks[name] = _check_name(name, path, TaskFile.load(path))
    for kind, items in (("prompt", prompts), ("task", tasks)):
        for name, item in items.items():
            if item.backbone != backbone.fingerprint:
                raise MismatchError(
                    f"the {kind} {name!r} was made for another backbone than {backbone.id}; leave it out."
                )
    for task in tasks.values():
        _check_task(task, prompts.get(task.prompt or ""), backbone)
    return Contents(prompts, tasks)


def _check_task(task: TaskFile, shared: SharedPrompt | None, backbone: AnyBackbone) -> None:
    """Check that a task fits the tokenizer, labels too, and its shared prompt. Raises MismatchError."""
    if task.tokenizer != backbone.texts.fingerprint:
        raise MismatchError(
            f"the task {task.name!r} was made for another tokenizer than {backbone.id}'s; leave it out."
        )
    if task.is_two_vectors and (shared is None or shared.fingerprint != task.prompt_sha256):
        raise MismatchError(
            f"the task {task.name!r} scales a shared prompt {task.prompt!r} that is not here; pass its folder too."
        )
    check_task_labels(task, backbone.texts)


def _check_name(name: str, path: Path, item: _Vectors) -> _Vectors:
    """Return an item whose name is the one that its folder has for it, and one that a bundle can list.

    Raises:
        InputError: it is not; the bundle could not be opened.
    """
    if NAME.fullmatch(item.name) is None:
        raise InputError(f"{path} holds {item.name!r}, a name that no bundle can list; train or import it anew.")
    if item.name != name:
        raise InputError(f"{path} holds {item.name!r}; rename the file to {item.name}{path.suffix}, or leave it out.")
    return item


def check_room(backbone: AnyBackbone, contents: Contents) -> None:
    """Check that the longest prompt leaves positions for a text, before the graph is exported.

    Raises:
        InputError: it does not.
    """
    required = _MIN_ROOM
    if isinstance(backbone, EncoderBackbone):
        if not contents.placement.takes_positions:
            return
        required = len(backbone.texts.encode(["a"], backbone.max_length)[0].ids)
    if backbone.model.max_positions - contents.max_length < required:
        raise InputError(
            f"{backbone.id} has {backbone.model.max_positions} positions and a prompt takes {contents.max_length} of "
            "them, which leaves no text any room; train it again with a lower --prompt-length."
        )


def copy_files(folders: Sequence[Path], output: Path) -> None:
    """Copy the files of all prompts and tasks unchanged, later ones over earlier ones."""
    for source in folders:
        for key, path in VectorFolder(source).files_by_key.items():
            copy = output / key
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
