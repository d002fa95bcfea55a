"""What all head types share: a label from logits, and results without errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpt_edge.errors import CorruptFileError, InputError, MptEdgeError
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.heads.base import all_valid, predict
from mpt_edge.inference.text import Encoded


@pytest.fixture
def task() -> TaskFile:
    return TaskFile(
        name="t",
        head_type="similarity",
        labels=("a", "b", "c"),
        u=np.ones(2, np.float16),
        v=np.ones(4, np.float16),
        backbone="",
        tokenizer="",
        scale=2.0,
    )


def test_prediction_is_the_scaled_softmax(task: TaskFile) -> None:
    logits = np.array([0.3, 0.9, -0.4], np.float32)
    row = Encoded([1, 2], [0, 0], truncated=True, unknown=False)
    expected = np.exp(2.0 * logits.astype(np.float64))
    expected /= expected.sum()

    result = predict(task, logits, row)
    assert (result.task, result.label, result.truncated, result.unknown) == ("t", "b", True, False)
    assert list(result.scores) == ["a", "b", "c"]
    np.testing.assert_allclose(list(result.scores.values()), expected, rtol=1e-6)
    assert result.score == result.scores["b"]
    assert result.similarities == {}


@pytest.mark.parametrize(("threshold", "abstain"), [(None, False), (0.5, False), (0.9, True)])
def test_a_score_below_the_threshold(task: TaskFile, threshold: float | None, abstain: bool) -> None:
    row = Encoded([1], [0], truncated=False)
    result = predict(replace(task, threshold=threshold), np.array([1.0, 0.2, -1.0], np.float32), row)
    assert 0.5 < result.score < 0.9
    assert (result.label, result.abstain) == ("a", abstain)


def test_cosines_are_kept_as_they_are(task: TaskFile) -> None:
    logits = np.array([0.25, -0.5, 0.125], np.float32)
    result = predict(task, logits, Encoded([1], [0], truncated=False, unknown=True), are_cosines=True)
    assert result.similarities == {"a": 0.25, "b": -0.5, "c": 0.125}
    assert result.unknown


def test_results_without_errors_stay() -> None:
    assert all_valid([1, 2]) == [1, 2]
    assert all_valid([]) == []


def test_the_first_error_names_its_text() -> None:
    with pytest.raises(InputError, match=r"^text 2: it is empty$") as caught:
        all_valid(["answer", InputError("it is empty"), InputError("another")])
    assert isinstance(caught.value.__cause__, InputError)


def test_errors_that_are_not_of_a_text_stay_as_they_are() -> None:
    results: list[str | MptEdgeError] = ["answer", CorruptFileError("damaged"), InputError("it is empty")]
    with pytest.raises(CorruptFileError, match=r"^damaged$"):
        all_valid(results)
