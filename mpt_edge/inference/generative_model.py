"""A loaded bundle with a generative model: tasks that generate text, or choose among texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import CONSTRAINTS, NAMES, GenerationKwargs, GenerationOptions
from mpt_edge.formats.manifest import Family
from mpt_edge.formats.placement import Layout
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Answer, Stream
from mpt_edge.inference.arguments import check_name, check_text
from mpt_edge.inference.batching import MAX_TOKENS, by_length
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.generation.constraints import Constraint, Grammars
from mpt_edge.inference.generation.opening import Opening, common_beginning
from mpt_edge.inference.heads.base import ComposedTask, Request, SelectedTask, all_valid, check_finite
from mpt_edge.inference.heads.generative_head import GenerativeHead
from mpt_edge.inference.heads.text_generation import TextGeneration
from mpt_edge.inference.model import Model
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.decoding import Decoding, OnnxGenerator
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.runtime.session import SessionOptions
from mpt_edge.inference.selection import MAX_CACHE_BYTES
from mpt_edge.inference.text import Encoded, Text


class GenerativeModel(Model):
    """A loaded bundle whose backbone generates text; see `Model`.

    Attributes:
        backbone: the exported graphs.
        eos_ids: tokens that end a text.
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
        chosen, manifest = bundle.choose_precision(precision), bundle.manifest
        with bundle.opening_graphs(chosen, verify=verify) as graphs:
            super().__init__(bundle, chosen, max_cache_bytes)
            if manifest.family is Family.SEQ2SEQ:
                encoder, decoder = graphs
                seq2seq = OnnxSeq2Seq(encoder, decoder, manifest, options)
                self.backbone: OnnxGenerator = seq2seq
                self.providers = seq2seq.providers
            else:
                causal = OnnxCausal(graphs[0], manifest, options)
                self.backbone, self.providers = causal, causal.providers
        self._grammars = Grammars(self.texts.tokenizer)
        assert manifest.generation is not None  # as in every manifest of these families
        self.eos_ids, self._context = manifest.generation.eos_ids, manifest.generation.context

    def log_likelihood(self, text: Text, task: str, target: str) -> float:
        """Return the mean log-likelihood per token of a target text after an input, under a task.

        Args:
            text: the input.
            task: a task that generates text.
            target: the text; only its first ``max_new_tokens`` tokens count.

        Raises:
            InputError: the text cannot be read, or the target has no tokens.
            UnknownTaskError: there is no such task.
        """
        return self._log_likelihood(text, self._select(check_name(task)), target)

    def _log_likelihood(self, text: object, task: SelectedTask, target: str) -> float:
        (request,) = all_valid(self._prepare([text], [task], {}))
        limit = self._options(task, {}).max_new_tokens
        (tokens,) = self.texts.continuations([check_text(target, "target text")], limit)
        if not tokens:
            raise InputError("the target text has no tokens; pass at least one word.")
        ((result,),) = likelihoods(*self._open([request]), [[tokens]])
        return float(result)

    def _compose(self, file: TaskFile) -> SelectedTask:
        shared, composed = self._composed(file)
        head_class, layout = file.head_class, shared.placement.layout
        assert issubclass(head_class, GenerativeHead)  # the bundle's check of the task refuses others
        cache = self.backbone.encode_prompt(composed, layout)
        check_finite(file, cache)
        task = ComposedTask(file, shared.placement, composed, cache, shared.head)
        opening = self._read_opening(task) if isinstance(self.backbone, OnnxCausal) else None
        return SelectedTask(**vars(task), head=head_class.prepare(task, self), opening=opening)

    def _read_opening(self, task: ComposedTask) -> Opening | None:
        """Read what all inputs of a task begin with; None if that is too little."""
        assert isinstance(self.backbone, OnnxCausal)
        ids = common_beginning(self.texts, task.file)
        if not ids or len(task.file.u) + len(ids) >= self._context:
            return None
        opening = Opening(ids, self.backbone.extend_prompt(task.cache, ids))
        check_finite(task.file, opening.cache)
        return opening

    def _options(self, task: SelectedTask, given: GenerationKwargs) -> GenerationOptions:
        """Return the task's options, overridden by the request's."""
        values = {name: value for name, value in given.items() if value is not None or name not in NAMES}
        own = dict(task.file.generation)
        if values.keys() & CONSTRAINTS:  # the text then ends by itself, and has one constraint
            own = {name: value for name, value in own.items() if name not in {"stop", *CONSTRAINTS}}
        return GenerationOptions.parse({**own, **values})

    def _max_length(self, task: SelectedTask) -> int:
        return self._room(task, self._options(task, {}))

    def _room(self, task: SelectedTask, options: GenerationOptions) -> int:
        """Return the tokens of text that fit beside the prompt and the answer. Raises InputError for none."""
        context, length = self._context, len(task.file.u)
        answer = _head(task).room(options)
        remedy = answer.remedy
        if self.backbone.is_encoder_decoder:
            if answer.tokens > context:
                raise InputError(
                    f"{answer.tokens} {answer.noun} are more than the {context} that the model reads; {remedy}."
                )
            room, taken = context - length, f"a prompt of {length} virtual tokens leaves"
            remedy = "train the task with a shorter prompt"
        else:
            room = context - length - answer.tokens
            taken = f"{answer.tokens} {answer.noun} and a prompt of {length} virtual tokens leave"
        if room < 1:
            raise InputError(f"{taken} no room for a text in the model's {context}; {remedy}.")
        return min(task.file.max_length, room)

    def _requests(
        self, texts: Sequence[Text], tasks: Sequence[SelectedTask], options: GenerationKwargs
    ) -> Sequence[Request | InputError]:
        settled: dict[int, tuple[GenerationOptions, Constraint | None]] = {}
        for task in tasks:
            if id(task) not in settled:
                settled[id(task)] = self._settled(task, options)
        return [self._request(text, task, *settled[id(task)]) for text, task in zip(texts, tasks, strict=True)]

    def _settled(self, task: SelectedTask, given: GenerationKwargs) -> tuple[GenerationOptions, Constraint | None]:
        """Return a task's options and their constraint. Raises InputError and MissingExtraError."""
        options = self._options(task, given)
        return options, self._grammars.constraint(options) if isinstance(task.head, TextGeneration) else None

    def _request(
        self, text: Text, task: SelectedTask, options: GenerationOptions, constraint: Constraint | None
    ) -> Request | InputError:
        file = task.file
        try:
            row = self.texts.fit(file.template, text, self._room(task, options), file.truncation_side, file.chat)
        except InputError as error:
            return error
        return Request(row, task, options, constraint)

    def _answer(self, requests: Sequence[Request], batch_size: int) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for run in self._runs(requests, batch_size):
            chosen = [requests[i] for i in run]
            answers |= zip(run, _head(chosen[0].task).answer(chosen, partial(self._open, chosen)), strict=True)
        return [answers[i] for i in range(len(requests))]

    def _open(self, requests: Sequence[Request]) -> tuple[Decoding, Floats]:
        """Read the inputs of requests, each under its own prompt."""
        openings = [_opening(request) for request in requests]
        rows = [_rest(request.row, opening) for request, opening in zip(requests, openings, strict=True)]
        caches = [
            request.task.cache if opening is None else opening.cache
            for request, opening in zip(requests, openings, strict=True)
        ]
        held = [0 if opening is None else len(opening.ids) for opening in openings]
        return self.backbone.open(self.texts.pad(rows), caches, held)

    def _stream(self, text: object, task: SelectedTask, options: GenerationKwargs) -> Stream:
        head = task.head
        if not isinstance(head, TextGeneration):
            return super()._stream(text, task, options)
        (request,) = all_valid(self._prepare([text], [task], options))
        return head.stream(request, lambda: self._open([request]))

    def _runs(self, requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
        """Group requests that are read and searched alike, by similar length.

        Joint prompts of a run need the same length. A request takes a row for each label or beam.
        """
        groups: dict[tuple[type, int, int], list[int]] = {}
        for i, request in enumerate(requests):
            task, head = request.task, _head(request.task)
            assert request.options is not None
            is_joint = self.backbone.is_encoder_decoder and task.placement.layout is Layout.JOINT
            width = head.width(request.options)
            groups.setdefault((type(head), width, len(task.prompt) if is_joint else 0), []).append(i)
        for (_, width, _), members in groups.items():
            lengths = [len(requests[i].row.ids) for i in members]
            for run in by_length(lengths, max(1, batch_size // width), MAX_TOKENS):
                yield [members[i] for i in run]


def _opening(request: Request) -> Opening | None:
    """Return the opening of a request's task, if the request begins so."""
    opening = request.task.opening
    return opening if opening is not None and opening.begins(request.row) else None


def _rest(row: Encoded, opening: Opening | None) -> Encoded:
    """Return the tokens after an opening."""
    count = 0 if opening is None else len(opening.ids)
    return replace(row, ids=row.ids[count:], types=row.types[count:])


def _head(task: SelectedTask) -> GenerativeHead:
    assert isinstance(task.head, GenerativeHead)
    return task.head
