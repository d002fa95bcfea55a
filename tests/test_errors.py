"""Every public error, answer and option travels between processes; loaded models say that they do not."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge import errors

ERRORS = [
    mpt_edge.UnknownTaskError("sst", ["sst2", "trec"], "models/minilm-l6"),
    mpt_edge.MissingExtraError("torch", "train"),
    *(
        kind("a sentence.")
        for kind in (
            mpt_edge.MptEdgeError,
            mpt_edge.BundleNotFoundError,
            mpt_edge.CorruptFileError,
            mpt_edge.InputError,
            mpt_edge.MismatchError,
            mpt_edge.ParityError,
            mpt_edge.SignatureError,
            mpt_edge.TrainingError,
            mpt_edge.UnsupportedModelError,
        )
    ),
]

VALUES = [
    mpt_edge.Prediction(task="t", label="a", score=0.75, scores={"a": 0.75, "b": 0.25}, similarities={"a": 0.5}),
    mpt_edge.Generation(task="t", text="x", input_tokens=1, new_tokens=1, finish="eos"),
    mpt_edge.Embedding(task="t", vector=np.ones(3, np.float32)),
    mpt_edge.Tagging(task="t", tokens=(mpt_edge.TokenLabel("x", 0, 1, "a", 0.5),)),
    mpt_edge.Span(task="t", text="x", score=0.5, start=1, end=2),
    mpt_edge.GenerationOptions(max_new_tokens=3, stop=("\n",)),
]


def fail(number: int) -> None:
    raise ERRORS[number]


def identity(number: int) -> object:
    return VALUES[number]


def test_all_public_errors_are_here() -> None:
    public = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert {type(error) for error in ERRORS} == public


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_copy(error: Exception) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)


def test_the_task_of_an_unknown_task_error_survives() -> None:
    assert pickle.loads(pickle.dumps(ERRORS[0])).name == "sst"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_survive_pickle_and_copy(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_errors_and_values_cross_a_pool(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(identity, range(len(VALUES)), timeout=120)) == VALUES
        for number, error in enumerate(ERRORS):
            with pytest.raises(type(error)) as caught:
                pool.submit(fail, number).result(timeout=120)
            assert str(caught.value) == str(error)


def test_files_survive_pickle(tiny_bundle: Path) -> None:
    bundle = mpt_edge.Bundle.open(tiny_bundle)
    task = bundle.task("topic")
    other = pickle.loads(pickle.dumps(task))
    assert (other.name, other.labels) == (task.name, task.labels)
    np.testing.assert_array_equal(other.u, task.u)
    assert pickle.loads(pickle.dumps(bundle)).task_names == bundle.task_names
    prompt = bundle.prompt(task.prompt)
    assert pickle.loads(pickle.dumps(prompt)).fingerprint == prompt.fingerprint


def test_loaded_models_say_how_to_load_in_a_worker(tiny_bundle: Path) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1)
    for item in (model, model.task("topic")):
        for way in (pickle.dumps, copy.deepcopy, copy.copy):
            with pytest.raises(TypeError, match=r"mpt_edge\.load in each process"):
                way(item)
