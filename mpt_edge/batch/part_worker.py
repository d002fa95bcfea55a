"""Answers to the rows of a part, in any process."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from mpt_edge.batch.answer_columns import answer_types, schema_of
from mpt_edge.batch.json_answers import JsonLines
from mpt_edge.batch.parquet_answers import ParquetAnswers
from mpt_edge.batch.parts import Part
from mpt_edge.batch.preparing import Preparer
from mpt_edge.batch.rows import TASK_COLUMN, Columns, InputRows
from mpt_edge.batch.shared_model import ModelSettings, shared_model
from mpt_edge.batch.windows import WINDOW, windows_ahead
from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.records import Format
from mpt_edge.inference.model import BATCH_SIZE, Model


@dataclass(frozen=True)
class PartResult:
    """The answers to a part, as a file holds them."""

    number: int
    data: bytes
    """JSON lines or Parquet."""
    skipped: int
    """Number of rows that could not be answered."""
    first_error: str
    """Sentence about the first of them; empty without any."""


@dataclass(frozen=True)
class PartWorker:
    """Answers parts. It can be sent to another process, and loads its model at the first part."""

    model: ModelSettings
    task: str | None
    columns: Columns = field(default_factory=Columns)
    skips: bool = False
    """Whether rows that cannot be answered are skipped; otherwise the part has no result."""
    batch_size: int = BATCH_SIZE
    prefix: str = ""
    """Start of the names of answer columns in Parquet."""
    has_files: bool = False
    """Whether JSON lines name their file."""
    options: GenerationKwargs = field(default_factory=GenerationKwargs)

    def load(self) -> MptEdgeError | None:
        """Load the model, and return the error that prevents it."""
        try:
            shared_model(self.model)
        except MptEdgeError as error:
            return error
        return None

    def __call__(self, part: Part) -> PartResult | MptEdgeError:
        """Return the answers to a part, or the error that stops the job."""
        try:
            model = shared_model(self.model)
            source = part.open(self.columns)
            write = self._writer(model, part, source)
            return self._answer(model, source, part, write)
        except MptEdgeError as error:
            return error

    def _answer(self, model: Model, source: InputRows, part: Part, write: _Output) -> PartResult:
        preparer = Preparer(model, source, self.task, self.options)
        errors: list[str] = []
        for window in windows_ahead(preparer, WINDOW):
            rows, requests, error = window.answerable(errors.append if self.skips else None)
            if error is not None:
                raise preparer.with_hint(error)
            write.answers(rows, model.answer(requests, batch_size=self.batch_size))
        return PartResult(part.number, write.data(), len(errors), errors[0] if errors else "")

    def _writer(self, model: Model, part: Part, source: InputRows) -> _Output:
        if part.form is not Format.PARQUET:
            return _JsonOutput(part.name if self.has_files else None)
        has_own = self.task is None or TASK_COLUMN in source.schema.names
        schema = schema_of(answer_types(model, None if has_own else self.task))
        file = io.BytesIO()
        return _ParquetOutput(file, ParquetAnswers(file, source.schema, schema, self.prefix))


class _JsonOutput:
    def __init__(self, source: str | None) -> None:
        self._bytes = io.BytesIO()
        self._file = io.TextIOWrapper(self._bytes, "utf-8", newline="\n")
        self.answers = JsonLines(self._file, numbered=True, source=source)

    def data(self) -> bytes:
        self._file.flush()
        return self._bytes.getvalue()


class _ParquetOutput:
    def __init__(self, file: io.BytesIO, answers: ParquetAnswers) -> None:
        self._file, self.answers = file, answers

    def data(self) -> bytes:
        self.answers.close()
        return self._file.getvalue()


_Output = _JsonOutput | _ParquetOutput
