"""A loaded bundle with an encoder: tasks that answer with a label, a vector, tags or a span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError, MptEdgeError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.taskfile import Inputs, TaskFile
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.arguments import check_name, text_list
from mpt_edge.inference.batching import ENCODER_TOKENS, RUN_COST, by_length, length_buckets
from mpt_edge.inference.heads.base import ComposedTask, Request, SelectedTask, all_valid, check_finite
from mpt_edge.inference.heads.embedding import Embedding
from mpt_edge.inference.heads.encoder_head import EncoderHead, TextStates
from mpt_edge.inference.model import BATCH_SIZE, Model
from mpt_edge.inference.numerics import pool, unit
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.kv_cache import stack
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.selection import MAX_CACHE_BYTES
from mpt_edge.inference.text import NO_TOKENS, Batch, Encoded, Text, render_beginning, try_validate

#: Longest prompts whose tasks share runs. A row of its own cache of l = 100 costs half as much again as none.
MAX_SHARED_LENGTH = 32


class EncoderModel(Model):
    """A loaded bundle whose backbone is an encoder; see `Model`.

    Attributes:
        backbone: the exported graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        options: SessionOptions | None = None,
        verify: bool = True,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        """Use `mpt_edge.load` instead."""
        chosen = bundle.choose_precision(precision)
        with bundle.opening_graphs(chosen, verify=verify) as (graph,):
            super().__init__(bundle, chosen, max_cache_bytes)
            self.backbone = OnnxEncoder(graph, bundle.manifest, options)
        self._side_by_side = options.runs if options is not None else 1
        self.providers = self.backbone.providers

    def prepare_embeddings(
        self, texts: Iterable[object], task: str | None = None, *, normalize: bool = True
    ) -> list[Request | MptEdgeError]:
        """Validate and tokenize texts whose embeddings `answer` returns, in batches with other requests.

        Args:
            texts: a list of texts or of pairs of texts, or another iterable of them.
            task: the task under whose prompt they are read; None for the bare backbone.
            normalize: scale each vector to length one.

        Returns:
            For each text a request, or the error that keeps it from being embedded.

        Raises:
            UnknownTaskError: there is no such task.
        """
        given = text_list(texts)
        selected = self._bare if task is None else self._select(check_name(task))
        rows = self._try_bare_rows(given) if task is None else self._prepare(given, [selected] * len(given), {})
        embedding = replace(selected, head=Embedding(selected.file, normalize=normalize))
        return [
            Request(row, embedding) if isinstance(row, Encoded) else
            replace(row, task=embedding) if isinstance(row, Request) else row
            for row in rows
        ]  # fmt: skip

    @cached_property
    def _bare(self) -> SelectedTask:
        """A nameless task of no virtual tokens: the bare backbone."""
        none = np.zeros(0, np.float32)
        file = TaskFile(
            name="", head_type=Embedding.name, u=none, v=none, backbone="", tokenizer="",
            max_length=self.manifest.max_length,
        )  # fmt: skip
        prompt = np.zeros(self.manifest.prompt_shape(0), np.float32)
        return SelectedTask(file, Placement(), prompt, self.backbone.no_past, head=Embedding(file))

    def embed_under(self, task: ComposedTask, rows: Sequence[Encoded]) -> Floats:
        """Return the unit embeddings ``(rows, d)`` of texts read under a task's prompt."""
        return unit(self._pooled(rows, task))

    def _compose(self, file: TaskFile) -> SelectedTask:
        shared, composed = self._composed(file)
        head_class = file.head_class
        assert issubclass(head_class, EncoderHead)  # the bundle's check of the task refuses others
        cache = {} if shared.placement.is_joint else self.backbone.encode_prompt(composed)
        check_finite(file, cache)
        task = ComposedTask(file, shared.placement, composed, cache, shared.head)
        return SelectedTask(**vars(task), head=head_class.prepare(task, self))

    def _max_length(self, task: ComposedTask) -> int:
        return min(task.file.max_length, self.manifest.max_length)

    def _requests(
        self, texts: Sequence[Text], tasks: Sequence[SelectedTask], options: GenerationKwargs
    ) -> Sequence[Request | InputError]:
        for option, value in options.items():
            if value is not None:  # None leaves it to the task
                raise InputError(f"the tasks of {self.bundle.folder} generate no text; leave {option} out.")
        rows = self._tokenize(texts, tasks)
        return [Request(row, task) if isinstance(row, Encoded) else row for row, task in zip(rows, tasks, strict=True)]

    def _tokenize(self, texts: Sequence[Text], tasks: Sequence[SelectedTask]) -> list[Encoded | InputError]:
        """Fill templates and tokenize, in one call of the tokenizer for each length limit."""
        rows: dict[int, Encoded | InputError] = {}
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, (text, task) in enumerate(zip(texts, tasks, strict=True)):
            head, limit = _head(task), self._max_length(task)
            if head.keeps_template:
                rows[i] = self._fit(text, task.file, limit)
            else:
                groups.setdefault((limit, head.needs_offsets), []).append(i)
        for (limit, offsets), members in groups.items():
            rendered = [render_beginning(tasks[i].file.template, texts[i], limit) for i in members]
            rows |= zip(members, self.texts.encode(rendered, limit, offsets=offsets), strict=True)
        return [self._checked(rows[i], task.file) for i, task in enumerate(tasks)]

    def _fit(self, text: Text, file: TaskFile, limit: int) -> Encoded | InputError:
        try:
            return self.texts.fit(file.template, text, limit, file.truncation_side)
        except InputError as error:
            return error

    def _checked(self, row: Encoded | InputError, file: TaskFile) -> Encoded | InputError:
        """Return a row with the segment ids that its task reads, or an error for one without tokens."""
        if isinstance(row, InputError):
            return row
        if not self._has_tokens(row):
            return InputError(NO_TOKENS)
        return row if file.token_types else replace(row, types=[0] * len(row.ids))

    def _has_tokens(self, row: Encoded) -> bool:
        """Whether a row has more than special tokens."""
        return len(row.ids) > self.texts.special_tokens(pair=isinstance(row.text, tuple))

    def _answer(self, requests: Sequence[Request], batch_size: int) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for i, scores in self._scored(requests, batch_size):
            answers[i] = _head(requests[i].task).answer(scores, requests[i].row)
        return [answers[i] for i in range(len(requests))]

    def _scores(self, texts: Sequence[object], task: SelectedTask) -> list[Floats]:
        requests = all_valid(self._prepare(texts, [task] * len(texts), {}))
        scores = dict(self._scored(requests, BATCH_SIZE))
        return [scores[i] for i in range(len(requests))]

    def _embed(self, texts: Sequence[object], task: SelectedTask | None, *, normalize: bool) -> Floats:
        if task is None:
            rows = all_valid(self._try_bare_rows(texts))
        else:
            rows = [request.row for request in all_valid(self._prepare(texts, [task] * len(texts), {}))]
        pooled = self._pooled(rows, task)
        return unit(pooled) if normalize else pooled

    def _try_bare_rows(self, texts: Sequence[object]) -> list[Encoded | InputError]:
        """Tokenize texts and pairs of texts for the backbone alone."""
        inputs = [Inputs.PAIR if isinstance(text, tuple | list) else Inputs.TEXT for text in texts]
        checked = [try_validate(*item) for item in zip(texts, inputs, strict=True)]
        valid: list[Text] = [text for text in checked if not isinstance(text, InputError)]
        rows = iter(self.texts.encode(valid, self.manifest.max_length))
        results = [text if isinstance(text, InputError) else next(rows) for text in checked]
        return [
            row if isinstance(row, InputError) or self._has_tokens(row) else InputError(NO_TOKENS) for row in results
        ]

    def _pooled(self, rows: Sequence[Encoded], task: ComposedTask | None) -> Floats:
        """Return the pooled states ``(rows, d)`` under one prompt, or under none."""
        pooled = np.empty((len(rows), self.manifest.hidden_size), np.float32)
        for run in by_length([len(row.ids) for row in rows], BATCH_SIZE, ENCODER_TOKENS):
            for i, states in zip(run, self._states([rows[i] for i in run], [task] * len(run)), strict=True):
                pooled[i] = states.pooled
        return pooled

    def _scored(self, requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, Floats]]:
        """Yield each request's index and scores, in runs of similar length."""
        runs, score = list(_runs(requests, batch_size)), partial(self._run_scores, requests)
        with ExitStack() as stack:
            results: Iterator[tuple[list[int], list[Floats]]] = map(score, runs)
            if min(self._side_by_side, len(runs)) > 1:  # threads of this call alone, so that the process may fork
                results = stack.enter_context(ThreadPoolExecutor(self._side_by_side)).map(score, runs)
            for run, scores in results:
                yield from zip(run, scores, strict=True)

    def _run_scores(self, requests: Sequence[Request], run: list[int]) -> tuple[list[int], list[Floats]]:
        """Run the graph once; return the run and the scores of its requests."""
        rows, tasks = [requests[i].row for i in run], [requests[i].task for i in run]
        results: Iterable[TextStates | Floats]
        results = self._words(rows, tasks[0]) if _head(tasks[0]).asks_words else self._states(rows, tasks)
        return run, [_head(task).scores(result) for task, result in zip(tasks, results, strict=True)]

    def _states(self, rows: Sequence[Encoded], tasks: Sequence[ComposedTask | None]) -> Iterator[TextStates]:
        """Run the graph once, with each row under its own prompt or all under none."""
        batch, first = self.texts.pad(rows), tasks[0]
        hidden = self._hidden(batch, tasks, first)
        tokens = hidden[:, hidden.shape[1] - batch.input_ids.shape[1] :]
        pooled = pool(tokens, batch.attention_mask, self.manifest.pooling)
        for i, row in enumerate(rows):
            yield TextStates(row, hidden[i, 0], tokens[i, : len(row.ids)], pooled[i])

    def _hidden(self, batch: Batch, tasks: Sequence[ComposedTask | None], first: ComposedTask | None) -> Floats:
        if first is None:
            return self.backbone.request(batch)
        if first.placement.is_joint:
            return self.backbone.joint_states(batch, first.prompt)
        if all(task is first for task in tasks):
            return self.backbone.request(batch, first.cache)
        return self.backbone.request(batch, stack([task.cache for task in tasks if task is not None])[0])

    def _words(self, rows: Sequence[Encoded], task: SelectedTask) -> Floats:
        """Return the masked-LM logits ``(rows, words)`` that one task's head asks for."""
        batch, query = self.texts.pad(rows), _head(task).word_query(rows)
        if task.placement.is_joint:
            return self.backbone.joint_words_at(batch, query.positions, query.words, task.prompt)
        return self.backbone.words_at(batch, query.positions, query.words, task.cache)


def _head(task: SelectedTask) -> EncoderHead:
    assert isinstance(task.head, EncoderHead)
    return task.head


def _runs(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Group requests into runs of similar length that the graph can share, the longest first.

    Rows of different tasks share a run if their prompts are short and of one length, since each row brings its own
    cache. Joint rows of different tasks do not, since each needs its own prompt. Nor do tasks that ask for words,
    since each asks for its own.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, request in enumerate(requests):
        task = request.task
        is_separate = task.placement.is_joint or _head(task).asks_words or len(task.prompt) > MAX_SHARED_LENGTH
        groups.setdefault((len(task.prompt), id(task) if is_separate else 0), []).append(i)
    for group in groups.values():
        lengths = [len(requests[i].row.ids) for i in group]
        batches = list(by_length(lengths, batch_size, ENCODER_TOKENS))
        for batch in reversed(batches):  # the longest needs the most memory, which the others use again
            for run in length_buckets([lengths[i] for i in batch], RUN_COST):
                yield [group[batch[i]] for i in run]
