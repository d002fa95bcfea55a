"""The model of an app, whatever its family: one backbone, and tasks that compose its prompt."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Unpack, overload

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.incoming import read_incoming
from mpt_edge.formats.locks import MAX_WAIT
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.prompts import SharedPrompt, compose
from mpt_edge.formats.public_keys import check_keys
from mpt_edge.formats.taskfile import NAME, TaskFile
from mpt_edge.inference.answers import Answer, Prediction, Stream
from mpt_edge.inference.arguments import (
    check_class,
    check_count,
    check_name,
    inputs_of,
    is_single,
    task_names,
    text_list,
)
from mpt_edge.inference.heads.base import Request, SelectedTask, all_valid
from mpt_edge.inference.selection import MAX_CACHE_BYTES, Selection
from mpt_edge.inference.self_test import self_test
from mpt_edge.inference.task import A, Task, Texts
from mpt_edge.inference.text import Text, TextEncoder, try_validate

#: Maximum rows in one run of the graph, unless the caller says otherwise.
BATCH_SIZE = 32


class Model(ABC):
    """A loaded bundle: one copy of the backbone for all its tasks. Safe under several threads.

    >>> model = mpt_edge.load("models/minilm-l6")
    >>> answers = model.run(["a dull film", "How far is Mars?"], tasks=["sst2", "trec"])
    >>> [answer.label for answer in answers]
    ['negative', 'number']

    Attributes:
        bundle: the bundle it was loaded from.
        providers: ONNX Runtime's execution providers in use.
        precision: precision of the graph in use.
    """

    providers: list[str]

    def __init__(self, bundle: Bundle, precision: Precision, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        """Use `mpt_edge.load` instead; this opens the tokenizer and selects no task."""
        self.bundle, self.manifest, self.precision = bundle, bundle.manifest, precision
        self.texts = TextEncoder(
            bundle.tokenizer(), pad_id=bundle.manifest.pad_id, source=str(bundle.folder / "tokenizer.json")
        )
        self._prompts: dict[str, SharedPrompt] = {}
        self._selection = Selection(check_count(max_cache_bytes, "budget of bytes"))
        self._added: dict[str, TaskFile] = {}
        self._reading = threading.Lock()  # of the bundle, which a reload changes

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, of the bundle and added since, sorted."""
        return sorted({*self.bundle.task_names, *self._added, *self._selection.names})

    @property
    def cached_tasks(self) -> list[str]:
        """Names of the selected tasks that are kept, the least recently used first."""
        return self._selection.names

    @property
    def cache_bytes(self) -> int:
        """Bytes of the selected tasks that are kept: prompts, their keys and values, and heads."""
        return self._selection.bytes

    def is_selected(self, name: str) -> bool:
        """Whether a selected task is kept, so that selecting it takes no time."""
        return name in self._selection

    @overload
    def task(self, name: str) -> Task[Prediction]: ...
    @overload
    def task(self, name: str, answers: type[A]) -> Task[A]: ...
    def task(self, name: str, answers: type[Answer] | None = None) -> Task[Any]:
        """Select a task: compose its prompt, cache its keys and values, prepare its head.

        Later calls reuse the first one's result, unless other tasks have taken its room; see ``max_cache_bytes`` of
        `mpt_edge.load`.

        Args:
            name: the task.
            answers: the class that its answers must have, such as `mpt_edge.Generation`. Without it nothing is
                checked, and type checkers assume `mpt_edge.Prediction`.

        Raises:
            UnknownTaskError: the bundle has no such task.
            CorruptFileError: its file is damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt, or answers otherwise.
        """
        selected = self._select(check_name(name))
        if answers is not None:
            check_class(answers, Answer)
        given = selected.head.answer_type
        if answers is not None and not issubclass(given, answers):
            raise MismatchError(f"{name!r} answers with {given.__name__}, not {answers.__name__}; pass that class.")
        return Task(self, selected)

    def add_task(self, path: str | os.PathLike[str]) -> Task[Any]:
        """Add a task file to the running model, without touching the bundle on disk.

        A task of the same name is replaced. Running requests and older `Task` objects keep the old one.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it was made for another backbone, tokenizer or prompt.
            SignatureError: the bundle pins keys, and none of them signed it, or its signature has expired.
        """
        file = TaskFile.load(path)
        self.bundle.check_fit(file)
        self.bundle.check_signer(file, is_new=True)
        selected = self._compose(file)
        self._added[file.name] = file  # to select it again, for it is not in the bundle
        self._selection.put(file.name, selected)
        return Task(self, selected)

    def drop_task(self, name: str) -> None:
        """Drop a selected task. The next call reads it from the bundle; requests under way keep it."""
        self._added.pop(name, None)
        self._selection.drop(name)

    def install(
        self,
        *files: str | os.PathLike[str],
        require_keys: Sequence[str] = (),
        allow_downgrade: bool = False,
        dry_run: bool = False,
        wait: float = MAX_WAIT,
    ) -> list[Task[Any]]:
        """Install task files into the bundle on disk, all in one change, and answer with them from now on.

        Each file is read once, checked as `mpt-edge tasks verify` checks it, and answers its reference example on
        this model, in its precision. Then the bundle is changed; with any error it stays as it was. Running
        requests and older `Task` objects keep a task that is replaced.

        >>> model = mpt_edge.load("models/minilm-l6")
        >>> model.install("models/minilm-l6/tasks/sst2.safetensors", dry_run=True)
        [Task('sst2', similarity, 2 labels)]

        Args:
            files: the task files.
            require_keys: public keys one of which must have signed each file, whatever the bundle pins.
            allow_downgrade: let a version through that is not above the highest that was ever installed.
            dry_run: check everything, and change nothing.
            wait: seconds to wait for another process that changes the bundle.

        Returns:
            The installed tasks, in the order of the files.

        Raises:
            CorruptFileError: a file is no task file, or does not answer its reference example.
            MismatchError: a task was made for another backbone, tokenizer or prompt, or its version does not rise.
            SignatureError: a file is not signed as required, or its signature has expired.
            InputError: two files hold the same task, the bundle cannot be written, or the wait was too short.
        """
        incoming = read_incoming(files)
        self.bundle.reload()
        keys = check_keys(require_keys)
        self.bundle.check_install(incoming, require_keys=keys, allow_downgrade=allow_downgrade)
        tasks = []
        for each in incoming:
            task: Task[Any] = Task(self, self._compose(each.file))
            self_test(task, self.precision)
            tasks.append(task)
        if not dry_run:
            self.bundle.install_untested(*incoming, require_keys=keys, allow_downgrade=allow_downgrade, wait=wait)
            for task in tasks:
                self._selection.put(task.name, task._selected)
        return tasks

    @overload
    def run(
        self,
        texts: Texts,
        tasks: str | Iterable[str],
        *,
        batch_size: int = BATCH_SIZE,
        **options: Unpack[GenerationKwargs],
    ) -> list[Prediction]: ...
    @overload
    def run(
        self,
        texts: Texts,
        tasks: str | Iterable[str],
        *,
        answers: type[A],
        batch_size: int = BATCH_SIZE,
        **options: Unpack[GenerationKwargs],
    ) -> list[A]: ...
    def run(
        self,
        texts: Texts,
        tasks: str | Iterable[str],
        *,
        answers: type[Answer] | None = None,
        batch_size: int = BATCH_SIZE,
        **options: Unpack[GenerationKwargs],
    ) -> list[Any]:
        """Answer texts of several tasks in mixed batches; row i runs under its own task.

        Args:
            texts: a list of texts or of pairs of texts, or another iterable of them, such as a generator.
            tasks: the name of one task for all, or one name per text.
            answers: class of the answers, for type checkers; nothing is checked.
            batch_size: maximum rows in one run of the graph.
            options: options for text generation, for all rows; see `mpt_edge.GenerationOptions`.

        Raises:
            InputError: the lengths differ, or a text or an option cannot be used.
            UnknownTaskError: a task is not in the bundle.
        """
        del answers
        return self.answer(all_valid(self.prepare(texts, tasks, **options)), batch_size=batch_size)

    def prepare(
        self, texts: Iterable[object], tasks: str | Iterable[str], **options: Unpack[GenerationKwargs]
    ) -> list[Request | MptEdgeError]:
        """Validate and tokenize texts, for `answer`. Arguments are those of `run`.

        Returns:
            For each text a request, or the error that keeps it from being answered.

        Raises:
            InputError: the lengths differ, or an option cannot be used.
        """
        given = text_list(texts)
        names = task_names(tasks, len(given))
        selected = {name: self._try_select(name) for name in dict.fromkeys(names)}
        return self._prepare(given, [selected[name] for name in names], options)

    def prepare_embeddings(
        self, texts: Iterable[object], task: str | None = None, *, normalize: bool = True
    ) -> list[Request | MptEdgeError]:
        """Validate and tokenize texts for `answer` to embed, under a task's prompt or, with None, under none.

        Raises:
            InputError: the model is no encoder.
            UnknownTaskError: there is no such task.
        """
        del texts, task, normalize
        raise self._no_embeddings()

    def answer(self, requests: Sequence[Request], *, batch_size: int = BATCH_SIZE) -> list[Answer]:
        """Answer prepared requests in mixed batches.

        Args:
            requests: requests of `prepare`.
            batch_size: maximum rows in one run of the graph.

        Raises:
            InputError: the batch size is no number, or below 1.
        """
        return self._answer(requests, check_count(batch_size, "batch size"))

    def embed(self, texts: Text | Texts, *, normalize: bool = True) -> Floats:
        """Return the embeddings of texts by the bare backbone, without any prompt.

        Args:
            texts: a text, or a list of texts.
            normalize: scale each vector to length one.

        Returns:
            Pooled hidden states ``(n, d)``, float32; ``(d,)`` for a single text.

        Raises:
            InputError: a text cannot be read, or the model is no encoder.
        """
        vectors = self._embed(inputs_of(texts), None, normalize=normalize)
        return vectors[0] if is_single(texts) else vectors

    def __repr__(self) -> str:
        """Show class, bundle, backbone and number of tasks."""
        id_ = self.manifest.backbone.get("id")
        return f"{type(self).__name__}({str(self.bundle.folder)!r}, {id_}, {len(self.tasks)} tasks)"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling and copying: a process loads its own model. Raises TypeError."""
        raise TypeError("a loaded model cannot be pickled or copied; call mpt_edge.load in each process.")

    @abstractmethod
    def _compose(self, file: TaskFile) -> SelectedTask:
        """Compose a task's prompt and prepare its head."""

    @abstractmethod
    def _max_length(self, task: SelectedTask) -> int:
        """Return the maximum input length in tokens."""

    @abstractmethod
    def _requests(
        self, texts: Sequence[Text], tasks: Sequence[SelectedTask], options: GenerationKwargs
    ) -> Sequence[Request | InputError]:
        """Tokenize valid texts; an error takes the place of one that has no tokens or no room."""

    @abstractmethod
    def _answer(self, requests: Sequence[Request], batch_size: int) -> list[Answer]:
        """Answer requests, in order."""

    def _stream(self, text: object, task: SelectedTask, options: GenerationKwargs) -> Stream:  # noqa: ARG002
        raise InputError(f"{task.file.name!r} generates no text; call it instead.")

    def _embed(self, texts: Sequence[object], task: SelectedTask | None, *, normalize: bool) -> Floats:  # noqa: ARG002
        raise self._no_embeddings()

    def _no_embeddings(self) -> InputError:
        return InputError(f"{self.bundle.folder} is a generative model, which has no embeddings; use an encoder.")

    def _scores(self, texts: Sequence[object], task: SelectedTask) -> list[Floats]:  # noqa: ARG002
        raise InputError(f"{task.file.name!r} is a task of a generative model, which has no such scores; call it.")

    def _log_likelihood(self, text: object, task: SelectedTask, target: str) -> float:  # noqa: ARG002
        raise InputError(f"{task.file.name!r} generates no text, so texts have no likelihood; call it instead.")

    def _run(self, texts: Sequence[object], task: SelectedTask, options: GenerationKwargs) -> list[Answer]:
        return self._answer(all_valid(self._prepare(texts, [task] * len(texts), options)), BATCH_SIZE)

    def _prepare(
        self,
        texts: Sequence[object],
        tasks: Sequence[SelectedTask | MptEdgeError],
        options: GenerationKwargs,
    ) -> list[Request | MptEdgeError]:
        """Validate texts of selected tasks, and tokenize those that are valid."""
        results: dict[int, Request | MptEdgeError] = {}
        valid: dict[int, tuple[Text, SelectedTask]] = {}
        for i, (text, task) in enumerate(zip(texts, tasks, strict=True)):
            if isinstance(task, MptEdgeError):
                results[i] = task
                continue
            checked = try_validate(text, task.file.inputs)
            if isinstance(checked, InputError):
                results[i] = checked
            else:
                valid[i] = checked, task
        requests = self._requests([text for text, _ in valid.values()], [task for _, task in valid.values()], options)
        results |= {i: self._noted(request, valid[i][0]) for i, request in zip(valid, requests, strict=True)}
        return [results[i] for i in range(len(texts))]

    def _noted(self, request: Request | InputError, text: Text) -> Request | InputError:
        """Return a request that says whether its text has no token that the tokenizer knows."""
        if isinstance(request, InputError):
            return request
        row, file = request.row, request.task.file
        if not self.texts.is_unknown(text, row, file.truncation_side):
            return request
        return replace(request, row=replace(row, unknown=True))

    def _try_select(self, name: str) -> SelectedTask | MptEdgeError:
        try:
            return self._select(name)
        except MptEdgeError as error:
            return error

    def _select(self, name: str) -> SelectedTask:
        if NAME.fullmatch(name) is None:
            raise UnknownTaskError(name, self.tasks, str(self.bundle.folder))
        return self._selection.get(name, lambda: self._compose(self._read(name)))

    def _read(self, name: str) -> TaskFile:
        """Return the file of a task that was added, or that is in the bundle now."""
        added = self._added.get(name)
        if added is not None:
            return added
        with self._reading:
            self.bundle.reload()  # it may have been installed, replaced or removed since
            if not self.bundle.has_task(name):
                raise UnknownTaskError(name, self.tasks, str(self.bundle.folder))
            return self.bundle.task(name)

    def _composed(self, file: TaskFile) -> tuple[SharedPrompt, Floats]:
        """Return the prompt that a task scales, and its own. Raises MismatchError for one that overflows."""
        shared = file.own_prompt
        if shared is None:
            name = file.prompt or ""
            if name not in self._prompts:
                self._prompts[name] = self.bundle.prompt(name)
            shared = self._prompts[name]
        composed = compose(shared.values, file.u, file.v)
        if not np.isfinite(composed).all():
            raise MismatchError(f"the prompt of {file.name!r} overflows; install the task's original file.")
        return shared, composed
