"""The bundle of an encoder, loaded: tasks that answer with a label, a vector, tags or a span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MismatchError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.head_types import READOUTS
from mpt_edge.formats.linear_head import Head
from mpt_edge.formats.manifest import Mask
from mpt_edge.formats.prompts import Layout, SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Embedding, Prediction
from mpt_edge.inference.batching import MAX_TOKENS, by_length
from mpt_edge.inference.interpret import TokenSpan, classify, extract, tag
from mpt_edge.inference.masking import Verbalizer, mask_place
from mpt_edge.inference.model import BATCH, Model, SelectedTask, naming_text
from mpt_edge.inference.numerics import label_embeddings, pool
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.prompt_cache import stack
from mpt_edge.inference.text import NO_TOKENS, Batch, Encoded, Text, render, validate_text


class EncoderModel(Model):
    """A loaded bundle whose backbone is an encoder.

    Attributes:
        bundle: the folder it was loaded from.
        backbone: the exported graph's calls, beneath tasks.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> None:
        """Use `mpt_edge.load` instead."""
        super().__init__(bundle)
        (graph,) = bundle.graphs(precision, verify=verify)
        self.backbone = OnnxEncoder(graph, bundle.manifest, threads=threads)

    def _compose(self, file: TaskFile) -> SelectedTask:
        shared, composed = self._composed(file)
        layout, head = shared.layout, _head(file, shared)
        if file.readout == "classifier" and layout != Layout.JOINT:
            raise MismatchError(
                f"the head of {file.name!r} reads the first prompt row, which sees no text in the {layout} layout; "
                "use it in the joint layout."
            )
        cache = self.backbone.encode_prompt(composed) if layout == Layout.PREFIX else {}
        selected = SelectedTask(file, layout, composed, cache, head=head)
        if file.readout == "mask":
            words = Verbalizer.encode(self._texts, file.template, self._mask.token, file.label_texts)
            return replace(selected, words=words)
        if file.readout != "similarity":
            return selected
        owners = [i for i, group in enumerate(file.label_texts) for _ in group]
        flat = [text for group in file.label_texts for text in group]
        embedded = self._read(self._texts.encode(flat, self._limit(selected)), [selected] * len(flat), 64)
        return replace(selected, labels=label_embeddings(np.stack(embedded), owners, len(file.labels)))

    def _limit(self, task: SelectedTask) -> int:
        return min(task.file.max_length, self.bundle.manifest.max_length)

    def _check(self, text: Text, task: SelectedTask, options: GenerationKwargs) -> None:
        _no_options(options, self.bundle)
        _, (row,) = self._tokenize([text], [task])
        self._check_tokens(row, text)

    def _answer(
        self, texts: Sequence[object], tasks: Sequence[SelectedTask], batch_size: int, options: GenerationKwargs
    ) -> list[Prediction]:
        _no_options(options, self.bundle)
        usable, rows = self._encode(texts, tasks)
        states = self._read(rows, tasks, batch_size)
        return [self._interpret(*item) for item in zip(states, usable, rows, tasks, strict=True)]

    def _states(self, texts: Sequence[object], task: SelectedTask) -> list[Floats]:
        selected = [task] * len(texts)
        return self._read(self._encode(texts, selected)[1], selected, BATCH)

    def _interpret(self, state: Floats, text: Text, row: Encoded, task: SelectedTask) -> Prediction:
        """Make an answer, as the task's readout says, from what was read."""
        file, truncated = task.file, row.truncated
        if file.readout == "similarity":
            return classify(file, task.labels @ state, truncated=truncated, cosines=True)
        if file.readout == "embedding":
            return Embedding(file.name, "", 0.0, truncated=truncated, vector=state)
        if file.readout in ("mask", "classifier"):
            return classify(file, state, truncated=truncated)
        places = [TokenSpan(*found) for found in self._texts.places(text, self._limit(task))]
        return (tag if file.readout == "tokens" else extract)(file, state, text, places, truncated=truncated)

    def _encode(self, texts: Sequence[object], tasks: Sequence[SelectedTask]) -> tuple[list[Text], list[Encoded]]:
        """Check texts, fill templates and tokenize."""
        usable, rows = self._tokenize(texts, tasks)
        for i, row in enumerate(rows):
            with naming_text(i):
                self._check_tokens(row, usable[i])
        return usable, rows

    def _check_tokens(self, row: Encoded, text: Text) -> None:
        if len(row.ids) <= self._texts.special_tokens(pair=isinstance(text, tuple)):
            raise InputError(NO_TOKENS)

    def _tokenize(self, texts: Sequence[object], tasks: Sequence[SelectedTask]) -> tuple[list[Text], list[Encoded]]:
        """Check texts, fill templates and tokenize, in one call of the tokenizer for each length limit."""
        usable: list[Text] = []
        rows: dict[int, Encoded] = {}
        for i, (given, task) in enumerate(zip(texts, tasks, strict=True)):
            with naming_text(i):
                text = validate_text(given, task.file.kind)
                usable.append(render(task.file.template, text))
                if task.words is not None:  # its mask must not be cut off, so it is fitted into its template by itself
                    rows[i] = self._texts.fit(task.file.template, text, self._limit(task), task.file.cut)
        limits = np.array([-1 if i in rows else self._limit(task) for i, task in enumerate(tasks)], np.int64)
        for limit in set(limits.tolist()) - {-1}:
            places = np.flatnonzero(limits == limit).tolist()
            rows |= zip(places, self._texts.encode([usable[i] for i in places], int(limit)), strict=True)
        ignored = [i for i, task in enumerate(tasks) if not task.file.token_types]
        rows |= {i: replace(rows[i], types=[0] * len(rows[i].ids)) for i in ignored}
        return usable, [rows[i] for i in range(len(usable))]

    def _read(self, rows: Sequence[Encoded], tasks: Sequence[SelectedTask], batch_size: int) -> list[Floats]:
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
            if first.layout == Layout.JOINT:
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

    def _at_mask(self, rows: Sequence[Encoded], batch: Batch, task: SelectedTask) -> Floats:
        """Return the labels' logits ``(rows, labels)`` where texts of one task have their mask."""
        assert task.words is not None
        mask, template = self._mask, task.file.template
        places = np.array([mask_place(row, mask.id, template, mask.token) for row in rows], np.int64)
        if task.layout == Layout.JOINT:
            return task.words.scores(self.backbone.joint_words_at(batch, places, task.words.tokens, task.prompt))
        return task.words.scores(self.backbone.words_at(batch, places, task.words.tokens, task.cache))

    @property
    def _mask(self) -> Mask:
        mask = self.bundle.manifest.mask
        assert mask is not None  # no other bundle takes tasks that answer at one
        return mask


def _no_options(options: GenerationKwargs, bundle: Bundle) -> None:
    for option, value in options.items():
        if value is not None:  # which leaves it to the task
            raise InputError(f"the tasks of {bundle.folder} write no text; leave {option} out.")


def _head(file: TaskFile, shared: SharedPrompt) -> Head | None:
    """Return what a task answers by, its own or the shared prompt's. Raises MismatchError where none fits."""
    if not READOUTS[file.readout].head:
        return None
    head = file.head or shared.head
    if head is None or not file.fits(head):
        raise MismatchError(
            f"{file.name!r} answers by a head of {len(file.labels) or 2} outputs, and its prompt {shared.name!r} has "
            f"{f'one of {head.outputs}' if head else 'none'}; import the adapter again."
        )
    return head


def _runs(rows: Sequence[Encoded], tasks: Sequence[SelectedTask], batch_size: int) -> Iterator[list[int]]:
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
        alone = (
            first.layout == Layout.JOINT or first.words is not None or len(members) >= batch_size or len(by_task) == 1
        )
        if alone:
            groups.append(members)
        else:
            mixed += members
    for group in [*groups, mixed]:
        for places in by_length([len(rows[i].ids) for i in group], batch_size, MAX_TOKENS):
            yield [group[place] for place in places]
