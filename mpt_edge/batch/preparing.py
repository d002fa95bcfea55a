"""Requests of rows, or the sentence for each row that cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpt_edge.batch.rows import InputRow, InputRows
from mpt_edge.errors import InputError, MptEdgeError, UnknownTaskError
from mpt_edge.formats.generation_options import GenerationKwargs
from mpt_edge.formats.records import BadRecord
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.heads.base import Request
from mpt_edge.inference.model import Model


@dataclass
class Preparer:
    """Checks rows of a source, and makes a request of each that can be answered."""

    model: Model
    source: InputRows
    task: str | None
    """Task of rows that name none."""
    options: GenerationKwargs
    _inputs: dict[str, Inputs | None] = field(default_factory=dict)

    def prepare(self, items: Sequence[InputRow | BadRecord]) -> list[Request | MptEdgeError]:
        """Return a request for each row, or the error that keeps it from being answered."""
        results: dict[int, Request | MptEdgeError] = {}
        rows: dict[int, tuple[InputRow, str]] = {}
        for i, item in enumerate(items):
            checked = self._check(item)
            if isinstance(checked, InputError):
                results[i] = checked
            elif isinstance(item, InputRow):
                rows[i] = item, checked
        texts, tasks = [row.text for row, _ in rows.values()], [task for _, task in rows.values()]
        prepared = self.model.prepare(texts, tasks, **self.options)
        for (i, (row, _)), result in zip(rows.items(), prepared, strict=True):
            is_of_row = isinstance(result, InputError | UnknownTaskError)
            results[i] = InputError(f"{self.source.locate(row.number)}: {result}") if is_of_row else result
        return [results[i] for i in range(len(items))]

    def with_hint(self, error: MptEdgeError) -> MptEdgeError:
        """Return an error of a row that names the option to skip it."""
        if isinstance(error, InputError) and self.source.name is not None:
            return InputError(str(error).removesuffix(".") + "; or pass --on-error skip.")
        return error

    def _check(self, item: InputRow | BadRecord) -> str | InputError:
        """Return a row's task, its own or the command's, or an error for a row without one or with too many texts."""
        if isinstance(item, BadRecord):
            return InputError(item.message)
        place, name = self.source.locate(item.number), item.task or self.task
        if name is None:
            return InputError(f'{place} names no task; pass --task NAME, or give the row a "task" entry.')
        inputs, is_pair = self._inputs_of(name), not isinstance(item.text, str)
        if inputs is Inputs.PAIR and not is_pair:
            fix = "pass it with --pair" if self.source.name is None else "name its column with --pair-column"
            return InputError(f"{place}: {name!r} reads pairs, but there is no second text; {fix}.")
        if inputs is Inputs.TEXT and is_pair:
            return InputError(f"{place}: {name!r} reads single texts, but there is a second text; leave it out.")
        return name

    def _inputs_of(self, task: str) -> Inputs | None:
        """Return the inputs of a task; None for one that cannot be selected, which `prepare` reports."""
        if task not in self._inputs:
            try:
                self._inputs[task] = self.model.task(task).file.inputs
            except MptEdgeError:
                self._inputs[task] = None
        return self._inputs[task]
