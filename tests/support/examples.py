"""Reference examples for tasks that no training made."""

from __future__ import annotations

from dataclasses import replace

from mpt_edge.errors import MptEdgeError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.model import Model
from mpt_edge.inference.self_test import record_example
from mpt_edge.inference.task import Task


def with_example(model: Model, file: TaskFile) -> TaskFile:
    """Return a task with the example that a model answers; as it is where it has one, or is none of the model's."""
    if file.reference_example:
        return file
    try:
        model.bundle.check_fit(file)
        return replace(file, reference_example=record_example(Task(model, model._compose(file))))
    except MptEdgeError:
        return file
