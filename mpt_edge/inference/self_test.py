"""Self test of a task: answer its reference example on this device.

It finds damage, a mix-up, and arithmetic that differs on this device. It finds no forgery: whoever makes a task file
can record whatever the forged task answers. Only a signature says who made a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpt_edge._arrays import Floats
from mpt_edge.errors import CorruptFileError, MptEdgeError
from mpt_edge.formats.manifest import Precision
from mpt_edge.formats.taskfile import Inputs
from mpt_edge.inference.answers import Answer, Embedding, Generation, Prediction, Span, Tagging
from mpt_edge.inference.task import Task
from mpt_edge.inference.text import Text

#: Tolerance of a reference example's score. int8 moves scores without changing answers: the largest difference of
#: the shipped tasks is 0.04. int4 changes the answers of some texts; a reference example has to keep its own.
TOLERANCES = {Precision.FLOAT32: 0.02, Precision.INT8: 0.1, Precision.INT4: 0.3}

#: Maximum characters of an answer in a message.
_MAX_SHOWN = 60

#: Channels of a vector that a reference example keeps.
_CHANNELS = 8

#: Inputs of examples that `record_example` makes.
_TEXTS: dict[Inputs, Text] = {
    Inputs.TEXT: "The film is a gorgeous and witty one.",
    Inputs.PAIR: ("Is the film good?", "The film is a gorgeous and witty one."),
}


def self_test(task: Task[Any], precision: Precision) -> None:
    """Answer a task's reference example.

    Args:
        task: the task.
        precision: precision of the graph in use.

    Raises:
        CorruptFileError: there is none, it cannot be used, the answer is another one, or a score is not finite.
    """
    example, name = task.file.reference_example, task.name
    if not example:
        raise CorruptFileError(
            f"{name!r} has no reference example, so nothing shows that it works here; train it again, or import it "
            "with `mpt-edge import peft` and this bundle as --output."
        )
    try:
        label, given = str(example["label"]), example["text"]
        text: Text = tuple(given) if isinstance(given, list) else given
        expected = float(example.get("log_likelihood", example["score"]))
        answered, score = _ask(task, text, label, example)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        cause = f" ({error})" if isinstance(error, MptEdgeError) else ""
        raise CorruptFileError(
            f"the reference example of {name!r} cannot be used{cause}; get its file again."
        ) from error
    if answered != label or not abs(score - expected) <= TOLERANCES[precision]:
        raise CorruptFileError(
            f"{name} answers its reference example with {_short(answered)} ({score:.3f}) instead of "
            f"{_short(label)} ({expected:.3f}); get its file again, or export the bundle again."
        )


def record_example(task: Task[Any]) -> dict[str, Any]:
    """Return a reference example for a task that was made without data: its answer to a text of ours."""
    text = _TEXTS[task.file.inputs]
    answer: Answer = task(text)
    given = list(text) if isinstance(text, tuple) else text
    if isinstance(answer, Embedding):
        vector = [round(float(value), 5) for value in answer.vector[:_CHANNELS]]
        return {"text": given, "label": "", "score": 0.0, "vector": vector}
    example = {"text": given, "label": answer.summary, "score": round(answer.confidence or 0.0, 5)}
    if isinstance(answer, Generation) and answer.text.strip():
        example["log_likelihood"] = round(task.log_likelihood(text, answer.text), 5)
    return example


def _ask(task: Task[Any], text: Text, label: str, example: Any) -> tuple[str, float]:
    """Return a task's answer to its example as text and number."""
    if "log_likelihood" in example:
        # Of two tokens that are equally likely, rounding decides; it hardly moves the likelihood of a text.
        return label, task.log_likelihood(text, label)
    answer: Answer = task(text)
    if not _is_finite(answer):
        return answer.summary, float("nan")
    if isinstance(answer, Embedding):
        expected = np.asarray(example["vector"], np.float32)
        return label, _distance(answer.vector, expected)
    return answer.summary, answer.confidence or 0.0


def _distance(vector: Floats, expected: Floats) -> float:
    """Return the largest difference of the first channels."""
    if expected.ndim != 1 or not expected.size:
        raise ValueError("the vector has no channels")
    return float(np.abs(vector[: len(expected)] - expected).max())


def _is_finite(answer: Answer) -> bool:
    """Whether all numbers of an answer are finite."""
    values: Any = []
    match answer:
        case Prediction():
            values = list(answer.scores.values())
        case Tagging():
            values = [token.score for token in answer.tokens]
        case Span():
            values = [answer.score]
        case Embedding():
            values = answer.vector
    return bool(np.isfinite(values).all())


def _short(text: str) -> str:
    """Return an answer that fits into a sentence."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return shown[:_MAX_SHOWN] or "nothing"
