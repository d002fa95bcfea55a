"""One selected task, as apps call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, NoReturn, Protocol, TypeVar, Unpack, cast, overload

from mpt_edge._arrays import Floats
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.inference.answers import Answer, Stream
from mpt_edge.inference.arguments import inputs_of, is_single, text_list
from mpt_edge.inference.heads.base import Head, SelectedTask
from mpt_edge.inference.text import Text

A = TypeVar("A", bound=Answer)

#: A list of texts or of pairs of texts, or another iterable of them that has an order.
Texts = Iterable[Text]


class TaskRunner(Protocol):
    """Operations of a model on a selected task; `mpt_edge.Model` has them."""

    def _max_length(self, task: SelectedTask) -> int: ...

    def _run(self, texts: Sequence[object], task: SelectedTask, options: GenerationKwargs) -> list[Answer]: ...

    def _stream(self, text: object, task: SelectedTask, options: GenerationKwargs) -> Stream: ...

    def _embed(self, texts: Sequence[object], task: SelectedTask | None, *, normalize: bool) -> Floats: ...

    def _scores(self, texts: Sequence[object], task: SelectedTask) -> list[Floats]: ...

    def _log_likelihood(self, text: object, task: SelectedTask, target: str) -> float: ...


class Task(Generic[A]):
    """One selected task. Call it with a text, a pair of texts, or a list of either.

    >>> model = mpt_edge.load("models/minilm-l6")
    >>> sst2 = model.task("sst2")
    >>> sst2("a gorgeous, witty film").label
    'positive'
    >>> [answer.label for answer in sst2(["a dull film", "a witty film"])]
    ['negative', 'positive']
    >>> sst2.embed(["a dull film"]).shape
    (1, 384)
    """

    def __init__(self, model: TaskRunner, selected: SelectedTask) -> None:
        """Use `Model.task`, `Model.add_task` or `Model.install` instead."""
        self._model = model
        self._selected = selected
        self.file = selected.file

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.file.name

    @property
    def head(self) -> Head:
        """The prepared head; see `mpt_edge.inference.heads`."""
        return self._selected.head

    @property
    def labels(self) -> tuple[str, ...]:
        """Possible labels; empty for tasks without."""
        return self.file.labels

    @property
    def max_length(self) -> int:
        """Maximum input length in tokens. Longer inputs are truncated, and their answers say so."""
        return self._model._max_length(self._selected)

    @property
    def prompt(self) -> Floats:
        """The composed prompt, float32, ``(l, d)``, or ``(l, layers, d)`` where it enters all layers."""
        return self._selected.prompt

    @overload
    # A str is an iterable of texts too, and the first overload that fits is taken.
    def __call__(self, text: Text, **options: Unpack[GenerationKwargs]) -> A: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, text: Texts, **options: Unpack[GenerationKwargs]) -> list[A]: ...
    def __call__(self, text: Text | Texts, **options: Unpack[GenerationKwargs]) -> A | list[A]:
        """Answer one text, or each of a list of texts, in order.

        Args:
            text: a text, a pair of texts (a tuple), or a list of either. A generator, an array or a column of a
                table is read as a list.
            options: options for text generation; see `mpt_edge.GenerationOptions`.

        Raises:
            InputError: a text is empty or not of the task's kind, or an option cannot be used.
        """
        texts = inputs_of(text)
        answers = cast("list[A]", self._model._run(texts, self._selected, options))
        return answers[0] if is_single(text) else answers

    def stream(self, text: Text, **options: Unpack[GenerationKwargs]) -> Stream:
        """Generate a text piece by piece; pieces are whole characters.

        Raises:
            InputError: the text or an option cannot be used, or the task generates no text.
        """
        return self._model._stream(text, self._selected, options)

    def embed(self, texts: Text | Texts, *, normalize: bool = True) -> Floats:
        """Return the embeddings of texts read under the task's prompt.

        Args:
            texts: a text, or a list of texts.
            normalize: scale each vector to length one.

        Returns:
            Pooled hidden states ``(n, d)``, float32; ``(d,)`` for a single text.

        Raises:
            InputError: a text cannot be read, or the model is no encoder.
        """
        vectors = self._model._embed(inputs_of(texts), self._selected, normalize=normalize)
        return vectors[0] if is_single(texts) else vectors

    def scores(self, texts: Texts) -> list[Floats]:
        """Return the raw scores that answers are made of, before any softmax.

        Returns:
            For each text, cosine similarities or logits ``(labels,)``; logits ``(tokens, labels)`` or ``(tokens, 2)``
            of a head on every token, special tokens included; or the embedding ``(d,)``.

        Raises:
            InputError: a text cannot be read, or the model is no encoder.
        """
        return self._model._scores(text_list(texts), self._selected)

    def log_likelihood(self, text: Text, target: str) -> float:
        """Return the mean log-likelihood per token of a target text after an input.

        Args:
            text: the input.
            target: the text; only its first ``max_new_tokens`` tokens count.

        Raises:
            InputError: the text cannot be read, the target has no tokens, or the model is no generative one.
        """
        return self._model._log_likelihood(text, self._selected, target)

    def __repr__(self) -> str:
        """Show name, head type and number of labels."""
        return f"Task({self.name!r}, {self.file.head_type}, {len(self.labels)} labels)"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling and copying: a process loads its own model. Raises TypeError."""
        raise TypeError("a task of a loaded model cannot be pickled or copied; call mpt_edge.load in each process.")
