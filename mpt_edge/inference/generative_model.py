"""The bundle of a model that generates, loaded: tasks that write text, or choose among texts."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.generation_options import NAMES, GenerationKwargs, GenerationOptions
from mpt_edge.formats.prompts import Layout
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.answers import Generation, Prediction, Stream
from mpt_edge.inference.batching import MAX_TOKENS, by_length
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.inference.generation.choice import likelihoods
from mpt_edge.inference.generation.search import Row, generate
from mpt_edge.inference.generation.streaming import TextStream, stop_check
from mpt_edge.inference.interpret import classify
from mpt_edge.inference.model import Model, SelectedTask, naming_text
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.decoding import Decoding, OnnxGenerator
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.text import Encoded, Text, validate_text


@dataclass(frozen=True)
class _Request:
    """One text to answer: its tokens, its task, and how its answer is written."""

    row: Encoded
    task: SelectedTask
    options: GenerationOptions

    @property
    def chooses(self) -> bool:
        """Whether the answer is one of the task's label texts."""
        return self.task.file.readout == "choice"


class GenerativeModel(Model):
    """A loaded bundle whose backbone generates.

    Attributes:
        bundle: the folder it was loaded from.
        backbone: the exported graphs' calls, beneath tasks.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> None:
        """Use `mpt_edge.load` instead."""
        super().__init__(bundle)
        graphs, manifest = bundle.graphs(precision, verify=verify), bundle.manifest
        self.backbone: OnnxGenerator
        if manifest.family == "seq2seq":
            encoder, decoder = graphs
            self.backbone = OnnxSeq2Seq(encoder, decoder, manifest, threads=threads)
        else:
            (graph,) = graphs
            self.backbone = OnnxCausal(graph, manifest, threads=threads)
        assert manifest.generation is not None  # as in every manifest of these families
        self._eos, self._context = manifest.generation.eos_ids, manifest.generation.context

    def _compose(self, file: TaskFile) -> SelectedTask:
        shared, composed = self._composed(file)
        choices = tuple(tuple(tokens) for tokens in self._texts.continuations([group[0] for group in file.label_texts]))
        if not all(choices):
            raise InputError(f"a label text of {file.name!r} has no tokens; train the task again with other texts.")
        # In a decoder-only model both layouts are the same: no prompt row ever sees the text.
        layout = shared.layout if self.backbone.is_encoder_decoder else Layout.PREFIX
        return SelectedTask(file, layout, composed, self.backbone.encode_prompt(composed, layout), choices=choices)

    def _options(self, task: SelectedTask, given: GenerationKwargs) -> GenerationOptions:
        """Return what the task says about its text, and what the request says instead."""
        values = {name: value for name, value in given.items() if value is not None or name not in NAMES}
        return GenerationOptions.of(task.file.written | values)

    def _limit(self, task: SelectedTask) -> int:
        return self._room(task, self._options(task, {}))

    def _room(self, task: SelectedTask, options: GenerationOptions) -> int:
        """Return how many tokens of text there is room for, beside the prompt and what stands behind the text."""
        context, rows = self._context, len(task.file.u)
        if task.file.readout == "choice":
            behind, what = max(map(len, task.choices)), "tokens of the longest label"
            way = "train the task with shorter label texts"
        else:
            behind, what = options.max_new_tokens, "new tokens"
            way = "ask for fewer, or train the task with a lower max_target_length"
        if self.backbone.is_encoder_decoder:
            if behind > context:
                raise InputError(f"{behind} {what} are more than the {context} that the model reads; {way}.")
            room, taken = context - rows, f"a prompt of {rows} rows leaves"
            way = "train the task with a shorter prompt"
        else:
            room, taken = context - rows - behind, f"{behind} {what} and a prompt of {rows} rows leave"
        if room < 1:
            raise InputError(f"{taken} no room for a text in the model's {context}; {way}.")
        return min(task.file.max_length, room)

    def _request(self, text: object, task: SelectedTask, options: GenerationOptions) -> _Request:
        file = task.file
        row = self._texts.fit(file.template, validate_text(text, file.kind), self._room(task, options), file.cut)
        return _Request(row, task, options)

    def _check(self, text: Text, task: SelectedTask, options: GenerationKwargs) -> None:
        self._request(text, task, self._options(task, options))

    def _answer(
        self, texts: Sequence[object], tasks: Sequence[SelectedTask], batch_size: int, options: GenerationKwargs
    ) -> list[Prediction]:
        settled = {id(task): self._options(task, options) for task in tasks}
        requests = []
        for i, (text, task) in enumerate(zip(texts, tasks, strict=True)):
            with naming_text(i):
                requests.append(self._request(text, task, settled[id(task)]))
        found: dict[int, Prediction] = {}
        for places in _batches(requests, batch_size):
            found |= zip(places, self._answer_batch([requests[i] for i in places]), strict=True)
        return [found[i] for i in range(len(texts))]

    def log_likelihood(self, text: Text, task: str, wanted: str) -> float:
        """Return the mean log-likelihood a token of a wanted text behind an input, read under a task.

        Args:
            text: the input.
            task: a task that writes.
            wanted: what might be written; what is beyond the task's ``max_new_tokens`` does not count.

        Raises:
            InputError: the text cannot be read, or nothing is wanted.
            UnknownTaskError: there is no such task.
        """
        selected = self._select(task)
        request = self._request(text, selected, self._options(selected, {}))
        (tokens,) = self._texts.continuations([wanted])
        if not tokens:
            raise InputError("the wanted text has no tokens; pass at least one word.")
        ((found,),) = likelihoods(*self._open([request]), [[tokens[: request.options.max_new_tokens]]])
        return float(found)

    def _answer_batch(self, requests: Sequence[_Request]) -> Sequence[Prediction]:
        """Answer requests that are searched alike."""
        decoding, logits = self._open(requests)
        if requests[0].chooses:
            scores = likelihoods(decoding, logits, [request.task.choices for request in requests])
            return [
                classify(request.task.file, score.astype(np.float32), truncated=request.row.truncated)
                for request, score in zip(requests, scores, strict=True)
            ]
        if requests[0].options.num_beams > 1:
            beams = [self._beams(request) for request in requests]
            beam_search(decoding, logits, beams, self._eos)
            return [self._followed(*item) for item in zip(beams, requests, strict=True)]
        rows = [self._row(request) for request in requests]
        for _ in generate(decoding, logits, rows, self._eos):
            pass
        return [_generation(*item) for item in zip(requests, rows, strict=True)]

    def _open(self, requests: Sequence[_Request]) -> tuple[Decoding, Floats]:
        batch = self._texts.pad([request.row for request in requests])
        return self.backbone.open(batch, [request.task.cache for request in requests])

    def _front(self, request: _Request) -> list[int]:
        """Return the tokens that a written text stands behind."""
        return self.backbone.front(request.row.ids)

    def _row(self, request: _Request) -> Row:
        front = self._front(request)
        return Row(TextStream(self._texts.tokenizer, front, request.options.stop), request.options, front)

    def _beams(self, request: _Request) -> BeamRow:
        front = self._front(request)
        stops = stop_check(self._texts.tokenizer, request.options.stop, front)
        return BeamRow(request.options, front, stops)

    def _followed(self, beam: BeamRow, request: _Request) -> Generation:
        tokens, finish = beam.best
        written = self._row(replace(request, options=replace(request.options, num_beams=1)))
        for token in tokens:
            written.stream.push(token)
            if written.stream.stopped:
                break
        written.stream.finish()
        written.finish = "stop" if written.stream.stopped else finish
        return _generation(request, written)

    def _stream(self, text: object, task: SelectedTask, options: GenerationKwargs) -> Stream:
        if task.file.readout != "generation":
            return super()._stream(text, task, options)
        request = self._request(text, task, self._options(task, options))
        if request.options.num_beams > 1:
            raise InputError("beams know their text only at the end; stream with one beam.")
        row = self._row(request)

        def pieces() -> Generator[str]:
            begun = False
            for _, piece in generate(*self._open([request]), [row], self._eos):
                fresh = piece if begun else piece.lstrip()
                begun = begun or bool(fresh)
                if fresh:
                    yield fresh

        return Stream(pieces(), lambda: _generation(request, row), truncated=request.row.truncated)


def _batches(requests: Sequence[_Request], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of requests that are read and searched alike, those of similar length together.

    What is read with every text (joint layout) is as long for all rows of a batch, and is no cache. A request takes as
    many rows as it has labels or beams.
    """
    groups: dict[tuple[bool, int, int], list[int]] = {}
    for i, request in enumerate(requests):
        joint = len(request.task.prompt) if request.task.layout == Layout.JOINT else 0
        width = len(request.task.choices) if request.chooses else request.options.num_beams
        groups.setdefault((request.chooses, width, joint), []).append(i)
    for (_, width, _), members in groups.items():
        lengths = [len(requests[i].row.ids) for i in members]
        for places in by_length(lengths, max(1, batch_size // width), MAX_TOKENS):
            yield [members[place] for place in places]


def _generation(request: _Request, row: Row) -> Generation:
    text = row.stream.text.lstrip()
    return Generation(
        task=request.task.file.name,
        label=text,
        score=0.0,
        truncated=request.row.truncated,
        text=text,
        tokens=len(row.stream.tokens),
        finish=row.finish,
    )
