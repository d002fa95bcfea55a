"""What an app uses of a model that generates: tasks that write text, or choose among texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from mpt_edge.answers import Generation, Prediction, classify
from mpt_edge.backbone import Floats
from mpt_edge.bundle import Bundle
from mpt_edge.causal import OnnxCausal
from mpt_edge.decoding import Decoding
from mpt_edge.errors import InputError
from mpt_edge.generation.beams import BeamRow, follow
from mpt_edge.generation.choice import likelihoods
from mpt_edge.generation.options import NAMES, GenerationOptions
from mpt_edge.generation.search import Row, write
from mpt_edge.generation.streaming import TextStream, stop_check
from mpt_edge.selection import Selected, Selection
from mpt_edge.seq2seq import OnnxSeq2Seq
from mpt_edge.taskfile import TaskFile
from mpt_edge.text import Encoded, Text, checked


class TextTask:
    """One selected task; call it with a text or a list of texts, or `stream` one."""

    def __init__(self, model: TextModel, selected: Selected) -> None:
        """Tasks are made by `TextModel.task` and `TextModel.add_task`."""
        self._model, self._selected, self.file = model, selected, selected.file

    @property
    def name(self) -> str:
        """The task's name."""
        return self.file.name

    @property
    def kind(self) -> str:
        """``"generation"``, or ``"classification"`` or ``"pair"`` where it chooses a label."""
        return self.file.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """What predictions can be; none where text is written."""
        return self.file.labels

    @property
    def max_length(self) -> int:
        """Longest input in tokens; longer ones are truncated."""
        return self._model._limit(self._selected, self._model._options(self._selected, {}))

    @property
    def prompt(self) -> Floats:
        """The composed prompt, ``(l, d)``, float32."""
        return self._selected.prompt

    @overload
    def __call__(self, text: str | tuple[str, str], **options: Any) -> Prediction: ...
    @overload
    def __call__(self, text: list[Text] | list[str] | list[tuple[str, str]], **options: Any) -> list[Prediction]: ...
    def __call__(self, text: Any, **options: Any) -> Prediction | list[Prediction]:
        """Answer one text, or each of a list of texts, in order.

        Args:
            text: the input.
            options: entries of `GenerationOptions`, such as ``max_new_tokens`` or ``num_beams``.

        Returns:
            A `Generation`, or a `Prediction` where the task chooses a label.

        Raises:
            InputError: a text or an option cannot be used.
        """
        many = isinstance(text, list)
        texts = text if many else [text]
        found = self._model._answer(texts, [self._selected] * len(texts), 32, options)
        return found if many else found[0]

    def stream(self, text: Text, **options: Any) -> Stream:
        """Write a text piece by piece, as it comes; pieces are whole characters.

        Raises:
            InputError: the text or an option cannot be used, or the task writes no text.
        """
        return self._model._stream(text, self._selected, options)

    def __repr__(self) -> str:
        """Show name and readout."""
        return f"TextTask({self.name!r}, {self.file.readout})"


class Stream(Iterator[str]):
    """A text that comes piece by piece: iterate over it.

    Attributes:
        truncated: whether the input is longer than the task reads; known before the first piece.
        answer: the whole text and why it ended, once the last piece has come; None before.
    """

    def __init__(self, pieces: Iterator[str], finished: Callable[[], Generation], *, truncated: bool) -> None:
        """Hand out ``pieces``, then ask ``finished`` for the whole."""
        self._pieces, self._finished, self.truncated = pieces, finished, truncated
        self.answer: Generation | None = None

    def __next__(self) -> str:
        """Return the next piece, at least one character."""
        try:
            return next(self._pieces)
        except StopIteration:
            self.answer = self._finished()
            raise


class TextModel(Selection):
    """The bundle of a model that generates, loaded: one copy of the backbone for all tasks.

    Attributes:
        bundle: the folder it was loaded from.
        backbone: the exported graph's calls, beneath tasks.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "", threads: int = 0, verify: bool = True) -> None:
        """Use `mpt_edge.load` instead."""
        super().__init__(bundle)
        graphs, manifest = bundle.graphs(precision, verify=verify), bundle.manifest
        self.backbone: OnnxCausal | OnnxSeq2Seq
        if manifest.family == "seq2seq":
            encoder, decoder = graphs
            self.backbone = OnnxSeq2Seq(encoder, decoder, manifest, threads=threads)
        else:
            (graph,) = graphs
            self.backbone = OnnxCausal(graph, manifest, threads=threads)
        self._eos = tuple(bundle.manifest.generation["eos_ids"])

    def task(self, name: str) -> TextTask:
        """Select a task: compose its prompt and cache its keys and values.

        Raises:
            UnknownTaskError: the bundle has no such task.
            CorruptFileError: its file is damaged.
            MismatchError: it was made for another backbone, tokenizer or prompt.
        """
        return TextTask(self, self._select(name))

    def add_task(self, path: str | os.PathLike[str]) -> TextTask:
        """Add a task file to the running model; see `Model.add_task`."""
        return TextTask(self, self._add(path))

    def run(
        self, texts: Sequence[Text], tasks: str | Sequence[str], *, batch_size: int = 32, **options: Any
    ) -> list[Prediction]:
        """Answer texts of several tasks in mixed batches; row i is read under its own task.

        Args:
            texts: texts, or pairs of texts.
            tasks: one task for all, or one a text.
            batch_size: most rows in one batch.
            options: entries of `GenerationOptions` for all rows.

        Raises:
            InputError: the lengths differ, or a text or an option cannot be used.
            UnknownTaskError: a task is not in the bundle.
        """
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(names)} tasks; pass one task, or one for each text.")
        if batch_size < 1:
            raise InputError(f"a batch size of {batch_size} is not possible; pass 1 or more.")
        return self._answer(texts, [self._select(name) for name in names], batch_size, options)

    def _compose(self, file: TaskFile) -> Selected:
        shared, composed = self._composed(file)
        choices = tuple(tuple(tokens) for tokens in self._texts.continuations([group[0] for group in file.label_texts]))
        if not all(choices):
            raise InputError(f"a label text of {file.name!r} has no tokens; train the task again with other texts.")
        return Selected(
            file, shared.layout, composed, self.backbone.encode_prompt(composed, shared.layout), choices=choices
        )

    def _options(self, task: Selected, given: dict[str, Any]) -> GenerationOptions:
        """Return what the task says about its text, and what the request says instead."""
        values = {name: value for name, value in given.items() if value is not None or name not in NAMES}
        return GenerationOptions.of(task.file.written | values)

    def _limit(self, task: Selected, options: GenerationOptions) -> int:
        """Return how many tokens of text there is room for, beside the prompt and what stands behind the text."""
        context, rows = int(self.bundle.manifest.generation["context"]), len(task.file.u)
        longest, what, way = options.max_new_tokens, "new tokens", "ask for fewer new tokens"
        if task.file.readout == "choice":
            longest = max(map(len, task.choices))
            what, way = "tokens of the longest label", "train the task with shorter label texts"
        if isinstance(self.backbone, OnnxSeq2Seq):
            longest = 0  # an encoder-decoder model writes in a row of its own, which takes no room from the text
        room = context - rows - longest
        if room < 1:
            raise InputError(
                f"{longest} {what} and a prompt of {rows} rows leave no room for a text in the model's "
                f"{context}; {way}."
            )
        return min(task.file.max_length, room)

    def _encode(self, text: object, task: Selected, options: GenerationOptions) -> Encoded:
        file = task.file
        cut = "left" if file.generation.get("cut") == "left" else "right"
        return self._texts.fit(file.template, checked(text, file.kind), self._limit(task, options), cut)

    def _answer(
        self, texts: Sequence[object], tasks: Sequence[Selected], batch_size: int, given: dict[str, Any]
    ) -> list[Prediction]:
        options = [self._options(task, given) for task in tasks]
        rows = []
        for i, item in enumerate(zip(texts, tasks, options, strict=True)):
            try:
                rows.append(self._encode(*item))
            except InputError as error:
                raise InputError(f"text {i + 1}: {error}") from error
        found: dict[int, Prediction] = {}
        for places in self._batches(rows, tasks, options, batch_size):
            chosen = [[values[i] for i in places] for values in (rows, tasks, options)]
            found |= zip(places, self._answer_batch(*chosen), strict=True)  # type: ignore[arg-type]
        return [found[i] for i in range(len(texts))]

    def _batches(
        self,
        rows: Sequence[Encoded],
        tasks: Sequence[Selected],
        options: Sequence[GenerationOptions],
        batch_size: int,
    ) -> Iterator[list[int]]:
        """Group rows that are searched alike, those of similar length together."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, (task, option) in enumerate(zip(tasks, options, strict=True)):
            groups.setdefault((task.file.readout == "choice", option.num_beams), []).append(i)
        for members in groups.values():
            ordered = sorted(members, key=lambda i: len(rows[i].ids))
            yield from (ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size))

    def _answer_batch(
        self, rows: Sequence[Encoded], tasks: Sequence[Selected], options: Sequence[GenerationOptions]
    ) -> list[Prediction]:
        decoding, logits = self._open(rows, tasks)
        if tasks[0].file.readout == "choice":
            scores = likelihoods(decoding, logits, [task.choices for task in tasks])
            return [
                classify(task.file, score.astype(np.float32), truncated=row.truncated)
                for task, score, row in zip(tasks, scores, rows, strict=True)
            ]
        if options[0].num_beams > 1:
            beams = [
                BeamRow(option, self._front(row), stop_check(self._texts.tokenizer, option.stop))
                for option, row in zip(options, rows, strict=True)
            ]
            follow(decoding, logits, beams, self._eos)
            return [self._followed(*item) for item in zip(beams, rows, tasks, strict=True)]
        under_way = [self._row(*item) for item in zip(rows, options, strict=True)]
        for _ in write(decoding, logits, under_way, self._eos):
            pass
        return [_generation(task.file, row, read) for task, row, read in zip(tasks, under_way, rows, strict=True)]

    def _open(self, rows: Sequence[Encoded], tasks: Sequence[Selected]) -> tuple[Decoding, Floats]:
        return self.backbone.open(self._texts.pad(rows), [task.cache for task in tasks])

    def _row(self, row: Encoded, options: GenerationOptions) -> Row:
        front = self._front(row)
        return Row(TextStream(self._texts.tokenizer, front, options.stop), options, front)

    def _front(self, row: Encoded) -> list[int]:
        """Return the tokens that a written text stands behind: the input, or the decoder's first token."""
        return [self.backbone.start_id] if isinstance(self.backbone, OnnxSeq2Seq) else list(row.ids)

    def _followed(self, beam: BeamRow, row: Encoded, task: Selected) -> Generation:
        tokens, finish = beam.best
        written = self._row(row, replace(beam.options, num_beams=1))
        for token in tokens:
            written.stream.push(token)
            if written.stream.stopped:
                break
        written.stream.finish()
        written.finish = "stop" if written.stream.stopped else finish
        return _generation(task.file, written, row)

    def _stream(self, text: object, task: Selected, given: dict[str, Any]) -> Stream:
        options = self._options(task, given)
        if task.file.readout != "generation":
            raise InputError(f"{task.file.name!r} chooses a label and writes no text; call it instead.")
        if options.num_beams > 1:
            raise InputError("beams know their text only at the end; stream with one beam.")
        read = self._encode(text, task, options)
        row = self._row(read, options)

        def pieces() -> Iterator[str]:
            begun = False
            for _, piece in write(*self._open([read], [task]), [row], self._eos):
                fresh = piece if begun else piece.lstrip()
                begun = begun or bool(fresh)
                if fresh:
                    yield fresh

        return Stream(pieces(), lambda: _generation(task.file, row, read), truncated=read.truncated)


def _generation(file: TaskFile, row: Row, read: Encoded) -> Generation:
    text = row.stream.text.lstrip()
    return Generation(
        task=file.name,
        label=text,
        score=0.0,
        truncated=read.truncated,
        text=text,
        tokens=len(row.stream.tokens),
        finish=row.finish,
    )
