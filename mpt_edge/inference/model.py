"""What an app uses, whatever the family: a model that holds the backbone once, and tasks that compose its prompt."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack, overload

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.prompts import Layout, SharedPrompt, compose
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Prediction, Stream
from mpt_edge.inference.masking import Verbalizer
from mpt_edge.inference.runtime.prompt_cache import PromptCache
from mpt_edge.inference.text import Text, TextEncoder, validate_text

#: Most rows in one run of the graph, unless the caller says otherwise.
BATCH = 32


@dataclass(frozen=True)
class SelectedTask:
    """What selecting a task computes once.

    Attributes:
        file: the task.
        layout: attention layout of its prompt.
        prompt: its composed prompt, ``(l, d)``, or ``(l, layers, d)`` where it enters every layer.
        cache: the prompt's keys and values, where it is read by itself.
        labels: embeddings of its labels, ``(labels, d)``.
        choices: tokens of its label texts, where a model that generates chooses.
        head: what it answers by, its own or the shared prompt's; None where it needs none.
        words: tokens of its label words, where it answers at a mask.
    """

    file: TaskFile
    layout: Layout
    prompt: Floats
    cache: PromptCache
    labels: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    choices: tuple[tuple[int, ...], ...] = ()
    head: Head | None = None
    words: Verbalizer | None = None


class Task:
    """One selected task; call it with a text, a pair of texts, or a list of either, or `stream` what it writes."""

    def __init__(self, model: Model, selected: SelectedTask) -> None:
        """Tasks are made by `Model.task` and `Model.add_task`."""
        self._model = model
        self._selected = selected
        self.file = selected.file

    @property
    def name(self) -> str:
        """The task's name."""
        return self.file.name

    @property
    def kind(self) -> str:
        """``"classification"`` for single texts, ``"pair"`` for pairs, ``"generation"`` where text is written."""
        return self.file.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """What predictions can be; none where text is written."""
        return self.file.labels

    @property
    def max_length(self) -> int:
        """Longest input in tokens; longer ones are cut, and their answers say so."""
        return self._model._limit(self._selected)

    @property
    def prompt(self) -> Floats:
        """The composed prompt, float32, ``(l, d)``, or ``(l, layers, d)`` where it enters every layer."""
        return self._selected.prompt

    @overload
    def __call__(self, text: Text, **options: Unpack[GenerationKwargs]) -> Prediction: ...
    @overload
    def __call__(
        self, text: list[Text] | list[str] | list[tuple[str, str]], **options: Unpack[GenerationKwargs]
    ) -> list[Prediction]: ...
    def __call__(
        self, text: Text | list[Text] | list[str] | list[tuple[str, str]], **options: Unpack[GenerationKwargs]
    ) -> Prediction | list[Prediction]:
        """Answer one text, or each of a list of texts, in order.

        Args:
            text: the input.
            options: how text is written, where the model writes: see `GenerationOptions`.

        Returns:
            A `Prediction` each; of a task that writes it is a `Generation`.

        Raises:
            InputError: a text is empty or not of the task's kind, or an option cannot be used.
        """
        texts = text if isinstance(text, list) else [text]
        found = self._model._answer(texts, [self._selected] * len(texts), BATCH, options)
        return found if isinstance(text, list) else found[0]

    def stream(self, text: Text, **options: Unpack[GenerationKwargs]) -> Stream:
        """Write a text piece by piece, as it comes; pieces are whole characters.

        Raises:
            InputError: the text or an option cannot be used, or the task writes no text.
        """
        return self._model._stream(text, self._selected, options)

    def states(self, texts: list[Text] | list[str] | list[tuple[str, str]]) -> list[Floats]:
        """Return what an encoder's answers to texts are made from.

        For tasks with a head these are its logits: ``(labels,)`` of a classifier, ``(tokens, labels)`` or
        ``(tokens, 2)`` of a head on every token, special tokens included. For the others it is the
        pooled embedding ``(d,)``.

        Raises:
            InputError: a text is empty or not of the task's kind, or the model is no encoder.
        """
        return self._model._states(texts, self._selected)

    def __repr__(self) -> str:
        """Show name, readout and number of labels."""
        return f"Task({self.name!r}, {self.file.readout}, {len(self.labels)} labels)"


class Model(ABC):
    """A loaded bundle: one copy of the backbone for all its tasks. Safe under several threads.

    Attributes:
        bundle: the folder it was loaded from.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Use `mpt_edge.load` instead; this opens the tokenizer, and no task is selected yet."""
        self.bundle = bundle
        self._texts = TextEncoder(
            bundle.tokenizer(), pad_id=bundle.manifest.pad_id, source=str(bundle.folder / "tokenizer.json")
        )
        self._prompts: dict[str, SharedPrompt] = {}
        self._selected: dict[str, SelectedTask] = {}
        self._lock = threading.RLock()

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, of the bundle and added since, sorted."""
        return sorted({*self.bundle.task_names, *self._selected})

    def task(self, name: str) -> Task:
        """Select a task: compose its prompt, cache its keys and values, read its labels.

        Later calls return what the first computed.

        Raises:
            UnknownTaskError: the bundle has no such task.
            CorruptFileError: its file is damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        return Task(self, self._select(name))

    def add_task(self, path: str | os.PathLike[str]) -> Task:
        """Add a task file to the running model, without touching the bundle on disk.

        A task of the same name is replaced; requests under way, and `Task` objects made before, keep the old one.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        file = TaskFile.load(Path(path))
        self.bundle.check_fit(file)
        with self._lock:
            self._selected[file.name] = self._compose(file)
            return Task(self, self._selected[file.name])

    def run(
        self,
        texts: Sequence[Text],
        tasks: str | Sequence[str],
        *,
        batch_size: int = BATCH,
        **options: Unpack[GenerationKwargs],
    ) -> list[Prediction]:
        """Answer texts of several tasks in mixed batches; row i is read under its own task.

        Args:
            texts: texts, or pairs of texts.
            tasks: one task for all, or one a text.
            batch_size: most rows in one run of the graph.
            options: how text is written, for all rows, where the model writes: see `GenerationOptions`.

        Raises:
            InputError: the lengths differ, or a text or an option cannot be used.
            UnknownTaskError: a task is not in the bundle.
        """
        if isinstance(texts, str):
            raise InputError("the texts are one text; pass a list of texts.")
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(names)} tasks; pass one task, or one for each text.")
        if batch_size < 1:
            raise InputError(f"a batch size of {batch_size} is not possible; pass 1 or more.")
        return self._answer(texts, [self._select(name) for name in names], batch_size, options)

    def check(self, text: object, task: str, **options: Unpack[GenerationKwargs]) -> Text:
        """Return the text if the task can read it, and write so behind it. Raises InputError or UnknownTaskError."""
        selected = self._select(task)
        usable = validate_text(text, selected.file.kind)
        self._check(usable, selected, options)
        return usable

    @abstractmethod
    def _compose(self, file: TaskFile) -> SelectedTask:
        """Compute what a task needs once."""

    @abstractmethod
    def _limit(self, task: SelectedTask) -> int:
        """Return how many tokens of input the task reads."""

    @abstractmethod
    def _check(self, text: Text, task: SelectedTask, options: GenerationKwargs) -> None:
        """Raise the InputError that answering the text would."""

    @abstractmethod
    def _answer(
        self, texts: Sequence[object], tasks: Sequence[SelectedTask], batch_size: int, options: GenerationKwargs
    ) -> list[Prediction]:
        """Answer each text under its own task; both are of one length."""

    def _stream(self, text: object, task: SelectedTask, options: GenerationKwargs) -> Stream:  # noqa: ARG002
        raise InputError(f"{task.file.name!r} chooses a label and writes no text; call it instead.")

    def _states(self, texts: Sequence[object], task: SelectedTask) -> list[Floats]:  # noqa: ARG002
        raise InputError(f"{task.file.name!r} is a task of a model that writes, which has no pooled states; call it.")

    def _select(self, name: str) -> SelectedTask:
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

    def _composed(self, file: TaskFile) -> tuple[SharedPrompt, Floats]:
        """Return the prompt that a task scales, and its own. Raises MismatchError where that overflows."""
        shared = file.whole_prompt()
        if shared is None:
            if file.prompt not in self._prompts:
                self._prompts[file.prompt] = self.bundle.prompt(file.prompt)
            shared = self._prompts[file.prompt]
        composed = compose(shared.values, file.u, file.v)
        if not np.isfinite(composed).all():
            raise MismatchError(f"the prompt of {file.name!r} overflows; install the task's original file.")
        return shared, composed


@contextlib.contextmanager
def naming_text(index: int) -> Iterator[None]:
    """Say which of the texts, counted from 0, an error is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"text {index + 1}: {error}") from error
