"""Answers as columns of a batch, for Ray Data, Spark and Dask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from mpt_edge.batch.answer_columns import ERROR, Kind, Schema, answer_types, schema_of, values_of
from mpt_edge.batch.columns import ColumnBatch, check_free, open_batch
from mpt_edge.batch.shared_model import ModelSettings, shared_model
from mpt_edge.errors import InputError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.inference.answers import Answer
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.model import BATCH_SIZE, Model

_Batch = TypeVar("_Batch")


class Predictor:
    """Adds answer columns to column batches. It can be pickled, and loads its model at the first batch.

    Call it with a dict of arrays, a pandas data frame, an Arrow table or an Arrow record batch; it returns a new one
    of the same class. Call it with an iterator of batches, as Spark's `mapInPandas` does, and it returns an iterator.
    All predictors of a process with the same bundle and settings share one model.

    >>> from mpt_edge.batch import Predictor
    >>> predict = Predictor("models/minilm-l6", task="sst2")
    >>> predict({"text": ["a gorgeous, witty film", "a dull film"]})["label"].tolist()
    ['positive', 'negative']
    """

    def __init__(
        self,
        bundle: object = None,
        *,
        task: str | None = None,
        task_column: str | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        prefix: str = "",
        errors: Literal["raise", "column"] = "raise",
        batch_size: int = BATCH_SIZE,
        precision: str | None = None,
        threads: int | None = 1,
        providers: Sequence[str] | None = None,
        digest: str | None = None,
        **options: Unpack[GenerationKwargs],
    ) -> None:
        """Keep the settings; nothing is loaded yet.

        Args:
            bundle: the bundle's folder on every machine that runs batches; None for the default of `mpt_edge.load`.
            task: task of all rows, or of those that name none.
            task_column: column with each row's task.
            text_column: column of the text.
            pair_column: column of the second text, for tasks that read pairs. Rows without one are single texts.
            prefix: start of the names of answer columns, where rows have columns of those names.
            errors: ``"raise"`` to stop at a row that cannot be answered; ``"column"`` to go on, and to add a column
                ``error`` with one sentence for each such row, and None for the others.
            batch_size: maximum rows in one run of the model.
            precision: ``"float32"`` or ``"int8"``; see `mpt_edge.load`.
            threads: CPU threads; one by default, since workers run side by side. None leaves it to ONNX Runtime.
            providers: ONNX Runtime's execution providers.
            digest: the only digest that the bundle may have.
            options: options for text generation; see `mpt_edge.GenerationOptions`.

        Raises:
            InputError: there is neither a task nor a column of tasks, or ``errors`` is another word.
        """
        if task is None and task_column is None:
            raise InputError("no task is named; pass task='sst2', or the name of a column with task_column=.")
        if errors not in ("raise", "column"):
            raise InputError(f"errors={errors!r} is not possible; pass 'raise' or 'column'.")
        self._settings = ModelSettings.of(
            bundle,
            precision=precision,
            threads=threads,
            providers=None if providers is None else tuple(providers),
            digest=digest,
        )
        self._task, self._task_column = task, task_column
        self._text_column, self._pair_column = text_column, pair_column
        self._prefix, self._has_errors = prefix, errors == "column"
        self._batch_size, self._options = batch_size, options
        self._schema: Schema | None = None

    @overload
    def __call__(self, batch: Iterator[_Batch]) -> Iterator[_Batch]: ...
    @overload
    def __call__(self, batch: _Batch) -> _Batch: ...
    def __call__(self, batch: Any) -> Any:
        """Return the batch with answer columns, or an iterator of such batches for an iterator.

        The columns depend on the task alone, or on all tasks of the bundle where a column names them: ``label`` and
        ``score``; ``output``, ``input_tokens``, ``new_tokens``, ``finish``, ``first_token_seconds`` and ``seconds`` of
        generated texts; ``vector``; ``start`` and ``end`` of passages; ``tokens`` with their labels.
        ``truncated`` and ``unknown`` are always there.

        Raises:
            InputError: the batch lacks a column, has an answer's column already, or a row cannot be answered.
            MptEdgeError: the model or a task cannot be loaded.
        """
        if isinstance(batch, Iterator):
            return map(self, batch)
        rows = open_batch(batch)
        model = shared_model(self._settings)
        if self._schema is None:
            self._schema = schema_of(answer_types(model, None if self._task_column else self._task))
        schema = {self._prefix + name: kind for name, kind in self._schema.items()}
        if self._has_errors:
            schema[self._prefix + ERROR] = Kind.TEXT
        check_free(rows.names, list(schema), "pass prefix= for the names of the answers, or drop it before")
        results = self._answer(model, rows)
        answers = [result if isinstance(result, Answer) else None for result in results]
        columns = values_of(answers, self._schema)
        columns[ERROR] = [None if isinstance(result, Answer) else result for result in results]
        named = {self._prefix + name: values for name, values in columns.items()}
        return rows.extended(named, schema, model.manifest.hidden_size)

    def __repr__(self) -> str:
        """Show bundle and task."""
        task = self._task if self._task_column is None else f"column {self._task_column!r}"
        return f"{type(self).__name__}({self._settings.bundle!r}, task={task})"

    def _answer(self, model: Model, rows: ColumnBatch) -> list[Answer | str]:
        """Return an answer for each row, or the sentence why there is none."""
        texts, tasks = self._texts(rows), self._tasks(rows)
        results: dict[int, Request | MptEdgeError] = {
            i: InputError(f"there is no task in the column {self._task_column!r}; write its name, or pass task=.")
            for i, task in enumerate(tasks)
            if task is None
        }
        named = {i: task for i, task in enumerate(tasks) if task is not None}
        prepared = model.prepare([texts[i] for i in named], list(named.values()), **self._options)
        results |= dict(zip(named, prepared, strict=True))
        self._raise(results)
        requests = {i: result for i, result in results.items() if isinstance(result, Request)}
        answers = dict(zip(requests, model.answer(list(requests.values()), batch_size=self._batch_size), strict=True))
        return [answers[i] if i in answers else str(results[i]) for i in range(len(texts))]

    def _raise(self, results: Mapping[int, Request | MptEdgeError]) -> None:
        """Raise the first error that is not for the column of errors."""
        for i, result in sorted(results.items()):
            if not isinstance(result, MptEdgeError):
                continue
            is_of_row = isinstance(result, InputError) or (
                self._task_column is not None and isinstance(result, UnknownTaskError)
            )
            if not is_of_row:
                raise result
            if not self._has_errors:
                sentence = str(result).removesuffix(".")
                raise InputError(f"row {i + 1} of the batch: {sentence}; or pass errors='column'.") from result

    def _texts(self, rows: ColumnBatch) -> list[Any]:
        texts = self._column(rows, self._text_column, "text_column")
        if self._pair_column is None:
            return texts
        pairs = self._column(rows, self._pair_column, "pair_column")
        return [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]

    def _tasks(self, rows: ColumnBatch) -> list[str | None]:
        if self._task_column is None:
            return [self._task] * len(rows.values(self._text_column))
        names = self._column(rows, self._task_column, "task_column")
        return [(name.strip() if isinstance(name, str) else None) or self._task for name in names]

    def _column(self, rows: ColumnBatch, name: str, argument: str) -> list[Any]:
        if name not in rows.names:
            known = ", ".join(map(repr, rows.names[:20])) or "none"
            raise InputError(f"the batch has no column {name!r}, it has {known}; name the right one with {argument}=.")
        return rows.values(name)
