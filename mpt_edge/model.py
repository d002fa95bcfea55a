"""What an app uses: a model that holds the backbone once, and tasks that compose its prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from mpt_edge.answers import Embedding, Place, Prediction, answer, classify, tag
from mpt_edge.backbone import Floats, OnnxBackbone, stack
from mpt_edge.bundle import Bundle
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.heads import Head
from mpt_edge.locate import default_bundle
from mpt_edge.masking import LabelWords, mask_place
from mpt_edge.prompts import SharedPrompt
from mpt_edge.readout import label_embeddings, pool
from mpt_edge.selection import Selected, Selection
from mpt_edge.taskfile import HEADLESS, TaskFile
from mpt_edge.text import Batch, Encoded, Text, checked, render
from mpt_edge.writing import TextModel

#: Padded tokens of one run of the graph; more rows than fit are run in several batches.
_TOKENS_PER_RUN = 4096


class Task:
    """One selected task; call it with a text, a pair of texts, or a list of either."""

    def __init__(self, model: Model, selected: Selected) -> None:
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
        """``"classification"`` for single texts, ``"pair"`` for pairs."""
        return self.file.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """What predictions can be."""
        return self.file.labels

    @property
    def max_length(self) -> int:
        """Longest text in tokens; longer ones are truncated."""
        return self.file.max_length

    @property
    def prompt(self) -> Floats:
        """The composed prompt, ``(l, d)``, float32."""
        return self._selected.prompt

    @overload
    def __call__(self, text: Text) -> Prediction: ...
    @overload
    def __call__(self, text: list[Text] | list[str] | list[tuple[str, str]]) -> list[Prediction]: ...
    def __call__(self, text: Text | list[Text] | list[str] | list[tuple[str, str]]) -> Prediction | list[Prediction]:
        """Answer one text, or each of a list of texts, in order.

        Raises:
            InputError: a text is empty or not of the task's kind.
        """
        if isinstance(text, list):
            return self._model._answer(text, [self._selected] * len(text), 32)
        return self._model._answer([text], [self._selected], 32)[0]

    def states(self, texts: list[Text] | list[str] | list[tuple[str, str]]) -> list[Floats]:
        """Return what the answers to texts are made from.

        For tasks with a head these are its logits: ``(labels,)`` of a classifier, ``(tokens, labels)`` or
        ``(tokens, 2)`` of a head on every token, special tokens included. For the others it is the
        pooled embedding ``(d,)``.

        Raises:
            InputError: a text is empty or not of the task's kind.
        """
        selected = [self._selected] * len(texts)
        return self._model._read(self._model._encode(texts, selected)[1], selected, 32)

    def __repr__(self) -> str:
        """Show name and labels."""
        return f"Task({self.name!r}, {len(self.labels)} labels)"


class Model(Selection):
    """An encoder's bundle, loaded: one copy of the backbone for all tasks. Safe under several threads.

    Attributes:
        bundle: the folder it was loaded from.
        backbone: the exported graph's calls, beneath tasks.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> None:
        """Use `mpt_edge.load` instead."""
        super().__init__(bundle)
        (graph,) = bundle.graphs(precision, verify=verify)
        self.backbone = OnnxBackbone(graph, bundle.manifest, threads=threads)

    def task(self, name: str) -> Task:
        """Select a task: compose its prompt, cache its keys and values, embed its labels.

        Later calls return what the first computed.

        Raises:
            UnknownTaskError: the bundle has no such task.
            CorruptFileError: its file is damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        return Task(self, self._select(name))

    def add_task(self, path: str | os.PathLike[str]) -> Task:
        """Add a task file to the running model, without touching the bundle on disk.

        A task of the same name is replaced; requests under way finish with the old one.

        Raises:
            CorruptFileError: it is no task file.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        return Task(self, self._add(path))

    def run(self, texts: Sequence[Text], tasks: str | Sequence[str], *, batch_size: int = 32) -> list[Prediction]:
        """Answer texts of several tasks; row i is read under its own task.

        Args:
            texts: texts, or pairs of texts.
            tasks: one task for all, or one a text.
            batch_size: most rows in one run of the graph.

        Raises:
            InputError: the lengths differ, or a text cannot be used.
            UnknownTaskError: a task is not in the bundle.
        """
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(names)} tasks; pass one task, or one for each text.")
        if batch_size < 1:
            raise InputError(f"a batch size of {batch_size} is not possible; pass 1 or more.")
        return self._answer(texts, [self._select(name) for name in names], batch_size)

    def _compose(self, file: TaskFile) -> Selected:
        shared, composed = self._composed(file)
        layout, head = shared.layout, _head(file, shared)
        if file.readout == "classifier" and layout != "joint":
            raise MismatchError(
                f"the head of {file.name!r} reads the first prompt row, which sees no text in the {layout} layout; "
                "use it in the joint layout."
            )
        cache = self.backbone.encode_prompt(composed) if layout == "prefix" else {}
        selected = Selected(file, layout, composed, cache, head=head)
        if file.readout == "mask":
            words = LabelWords.encode(self._texts, file.template, self._mask["token"], file.label_texts)
            return replace(selected, words=words)
        if not file.label_texts:
            return selected
        owners = [i for i, group in enumerate(file.label_texts) for _ in group]
        flat = [text for group in file.label_texts for text in group]
        embedded = self._read(self._texts.encode(flat, self._limit(file)), [selected] * len(flat), 64)
        labels = label_embeddings(np.stack(embedded), owners, len(file.labels))
        return Selected(file, layout, composed, cache, labels)

    def _answer(self, texts: Sequence[object], tasks: Sequence[Selected], batch_size: int) -> list[Prediction]:
        usable, rows = self._encode(texts, tasks)
        states = self._read(rows, tasks, batch_size)
        return [self._interpret(*item) for item in zip(states, usable, rows, tasks, strict=True)]

    def _interpret(self, state: Floats, text: Text, row: Encoded, task: Selected) -> Prediction:
        """Make an answer, as the task's readout says, from what was read."""
        file, truncated = task.file, row.truncated
        if file.readout == "similarity":
            return classify(file, task.labels @ state, truncated=truncated, cosines=True)
        if file.readout == "embedding":
            return Embedding(file.name, "", 0.0, truncated=truncated, vector=state)
        if file.readout in ("mask", "classifier"):
            return classify(file, state, truncated=truncated)
        places = [Place(*found) for found in self._texts.places(text, self._limit(file))]
        return (tag if file.readout == "tokens" else answer)(file, state, text, places, truncated=truncated)

    def _encode(self, texts: Sequence[object], tasks: Sequence[Selected]) -> tuple[list[Text], list[Encoded]]:
        """Check texts, fill templates and tokenise, in one call of the tokenizer for each length limit."""
        usable = [_usable(text, task.file, i) for i, (text, task) in enumerate(zip(texts, tasks, strict=True))]
        # The mask must not be cut off, so these texts are fitted into their templates one by one.
        masked = [i for i, task in enumerate(tasks) if task.words is not None]
        rows = {i: self._fitted(texts[i], tasks[i].file) for i in masked}
        limits = np.array([-1 if i in rows else self._limit(task.file) for i, task in enumerate(tasks)], np.int64)
        for limit in set(limits.tolist()) - {-1}:
            places = np.flatnonzero(limits == limit).tolist()
            rows |= zip(places, self._texts.encode([usable[i] for i in places], int(limit)), strict=True)
        ignored = [i for i, task in enumerate(tasks) if not task.file.token_types]
        rows |= {i: replace(rows[i], types=[0] * len(rows[i].ids)) for i in ignored}
        return usable, [rows[i] for i in range(len(usable))]

    def _fitted(self, text: object, file: TaskFile) -> Encoded:
        cut = str(file.generation.get("cut", "right"))
        return self._texts.fit(file.template, checked(text, file.kind), self._limit(file), cut)

    def _limit(self, file: TaskFile) -> int:
        return min(file.max_length, self.bundle.manifest.max_length)

    def _read(self, rows: Sequence[Encoded], tasks: Sequence[Selected], batch_size: int) -> list[Floats]:
        """Read rows, each under its task, in runs of similar length; the order is kept.

        Returns:
            For each row its pooled embedding ``(d,)``, or the logits of its task's head or label words.
        """
        out: list[Floats] = [np.empty(0, np.float32)] * len(rows)
        for chosen in _runs(rows, tasks, batch_size):
            batch = self._texts.pad([rows[i] for i in chosen])
            selected = [tasks[i] for i in chosen]
            first = selected[0]
            if first.words is not None:
                for i, scores in zip(chosen, self._at_mask([rows[i] for i in chosen], batch, first), strict=True):
                    out[i] = scores
                continue
            if first.layout == "joint":
                hidden = self.backbone.joint_states(batch, first.prompt)
            elif all(task is first for task in selected):
                hidden = self.backbone.request(batch, first.cache)
            else:
                hidden = self.backbone.request(batch, *stack([task.cache for task in selected]))
            tokens = hidden[:, hidden.shape[1] - batch.input_ids.shape[1] :]
            pooled = pool(tokens, batch.attention_mask, self.bundle.manifest.pooling)
            for place, (i, task) in enumerate(zip(chosen, selected, strict=True)):
                if task.head is None:
                    out[i] = pooled[place]
                else:
                    text = tokens[place, : len(rows[i].ids)]
                    out[i] = task.head(hidden[place, 0] if task.file.readout == "classifier" else text)
        return out

    def _at_mask(self, rows: Sequence[Encoded], batch: Batch, task: Selected) -> Floats:
        """Return the labels' logits ``(rows, labels)`` where texts of one task have their mask."""
        assert task.words is not None
        mask, template = self._mask, task.file.template
        places = np.array([mask_place(row, mask["id"], template, mask["token"]) for row in rows], np.int64)
        if task.layout == "joint":
            return task.words.scores(self.backbone.joint_words_at(batch, places, task.words.tokens, task.prompt))
        return task.words.scores(self.backbone.words_at(batch, places, task.words.tokens, task.cache))

    @property
    def _mask(self) -> Mapping[str, Any]:
        return self.bundle.manifest.mask


def load(
    path: str | os.PathLike[str] | None = None, *, precision: str = "", threads: int = 0, verify: bool = True
) -> Model | TextModel:
    """Load a bundle: a `Model` that answers, or a `TextModel` that writes, as its backbone can.

    Args:
        path: the bundle's folder; None for ``$MPT_EDGE_BUNDLE``, else ``models/minilm-l6`` in the
            current folder, else the one in the user's cache folder.
        precision: ``"float32"`` or ``"int8"``, as the bundle has it; empty for float32 where it is there.
        threads: CPU threads of one request; 0 leaves it to ONNX Runtime.
        verify: check the model file's SHA-256 too, not only its size. Prompts, tasks and the
            tokenizer are always checked.

    Raises:
        BundleNotFoundError: there is no bundle.
        CorruptFileError: a file is missing or damaged.
        InputError: the bundle has no graph of that precision.
    """
    bundle = Bundle.open(default_bundle() if path is None else path)
    return open_model(bundle, precision=precision, threads=threads, verify=verify)


def open_model(bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> Model | TextModel:
    """Load a bundle that has been opened; see `load`."""
    family = Model if bundle.manifest.family == "encoder" else TextModel
    return family(bundle, precision=precision, threads=threads, verify=verify)


def _head(file: TaskFile, shared: SharedPrompt) -> Head | None:
    """Return what a task answers by, its own or the shared prompt's. Raises MismatchError where none fits."""
    if file.readout in HEADLESS:
        return None
    head = file.head or shared.head
    if head is None or not file.fits(head):
        raise MismatchError(
            f"{file.name!r} answers by a head of {len(file.labels) or 2} outputs, and its prompt {shared.name!r} has "
            f"{f'one of {head.outputs}' if head else 'none'}; import the adapter again."
        )
    return head


def _usable(text: object, task: TaskFile, index: int) -> Text:
    try:
        return render(task.template, checked(text, task.kind))
    except InputError as error:
        raise InputError(f"text {index + 1}: {error}") from error


def _runs(rows: Sequence[Encoded], tasks: Sequence[Selected], batch_size: int) -> Iterator[list[int]]:
    """Group rows into runs of one layout and similar length.

    Joint rows of different tasks do not share a run, since each needs its own prompt rows, and neither do
    tasks that answer at a mask, since each asks for its own words. Many
    rows of one task run by themselves, because a shared cache is broadcast without a copy; what is
    left of all tasks is mixed.
    """
    by_task: dict[int, list[int]] = {}
    for i, task in enumerate(tasks):
        by_task.setdefault(id(task), []).append(i)
    mixed: list[int] = []
    groups: list[list[int]] = []
    for members in by_task.values():
        first = tasks[members[0]]
        alone = first.layout == "joint" or first.words is not None or len(members) >= batch_size or len(by_task) == 1
        if alone:
            groups.append(members)
        else:
            mixed += members
    for group in [*groups, mixed]:
        ordered = sorted(group, key=lambda i: len(rows[i].ids))
        start = 0
        while start < len(ordered):
            stop = start + 1
            while (
                stop < len(ordered)
                and stop - start < batch_size
                and len(rows[ordered[stop]].ids) * (stop + 1 - start) <= _TOKENS_PER_RUN
            ):
                stop += 1
            yield ordered[start:stop]
            start = stop
