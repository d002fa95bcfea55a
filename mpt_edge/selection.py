"""Selecting tasks of a bundle: read, checked, composed and cached once, whatever the family."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mpt_edge.backbone import Floats, PromptCache
from mpt_edge.bundle import Bundle
from mpt_edge.errors import MismatchError, UnknownTaskError
from mpt_edge.heads import Head
from mpt_edge.masking import LabelWords
from mpt_edge.prompts import SharedPrompt, compose
from mpt_edge.taskfile import TaskFile
from mpt_edge.text import Text, TextEncoder, checked


@dataclass(frozen=True)
class Selected:
    """What selecting a task computes once.

    Attributes:
        file: the task.
        layout: attention layout of its prompt.
        prompt: its composed prompt, ``(l, d)``.
        cache: the prompt's keys and values, where it is read by itself.
        labels: embeddings of its labels, ``(labels, d)``.
        choices: tokens of its label texts, where a model that generates chooses.
        head: what it answers by, its own or the shared prompt's; None where it needs none.
        words: tokens of its label words, where it answers at a mask.
    """

    file: TaskFile
    layout: str
    prompt: Floats
    cache: PromptCache
    labels: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    choices: tuple[tuple[int, ...], ...] = ()
    head: Head | None = None
    words: LabelWords | None = None


class Selection(ABC):
    """The tasks of a loaded bundle; safe under several threads.

    Attributes:
        bundle: the folder it was loaded from.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Open a bundle's tokenizer; no task is selected yet."""
        self.bundle = bundle
        self._texts = TextEncoder(
            bundle.tokenizer(), pad_id=bundle.manifest.pad_id, source=str(bundle.folder / "tokenizer.json")
        )
        self._prompts: dict[str, SharedPrompt] = {}
        self._selected: dict[str, Selected] = {}
        self._lock = threading.RLock()

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, of the bundle and added since, sorted."""
        return sorted({*self.bundle.task_names, *self._selected})

    def check(self, text: object, task: str) -> Text:
        """Return the text if the task can read it. Raises InputError or UnknownTaskError."""
        return checked(text, self._select(task).file.kind)

    @abstractmethod
    def _compose(self, file: TaskFile) -> Selected:
        """Compute what a task needs once."""

    def _select(self, name: str) -> Selected:
        selected = self._selected.get(name)
        if selected is not None:
            return selected
        with self._lock:
            if name not in self._selected:
                self.bundle.reload()  # it may have been installed, replaced or removed since
                if name not in self.bundle.task_names:
                    raise UnknownTaskError(name, self.tasks, str(self.bundle.folder))
                self._selected[name] = self._compose(self.bundle.task(name))
            return self._selected[name]

    def _add(self, path: str | os.PathLike[str]) -> Selected:
        file = TaskFile.load(Path(path))
        self.bundle.check_fit(file)
        with self._lock:
            self._selected[file.name] = self._compose(file)
            return self._selected[file.name]

    def _composed(self, file: TaskFile) -> tuple[SharedPrompt, Floats]:
        """Return the prompt that a task scales and its own ``(l, d)``. Raises MismatchError where that overflows."""
        shared = file.whole_prompt()
        if shared is None:
            if file.prompt not in self._prompts:
                self._prompts[file.prompt] = self.bundle.prompt(file.prompt)
            shared = self._prompts[file.prompt]
        elif not file.layout:
            shared = replace(shared, layout=self.bundle.manifest.layout)
        composed = compose(shared.values, file.u, file.v)
        if not np.isfinite(composed).all():
            raise MismatchError(f"the prompt of {file.name!r} overflows; install the task's original file.")
        return shared, composed
