"""Arguments of the Python API: other iterables than lists, and one sentence for values of other types."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpt_edge
from mpt_edge import Bundle, GenerationOptions, InputError, Model, Prediction, SharedPrompt, TaskFile
from mpt_edge.formats.vectors import VectorFolder
from mpt_edge.inference.arguments import is_single

TEXTS = ["a good film", "atom", "the game"]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return mpt_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def writing_model(writer_bundle: Path) -> Model:
    return mpt_edge.load(writer_bundle, threads=1)


ITERABLES: dict[str, Callable[[], Any]] = {
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "array": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "keys": lambda: dict.fromkeys(TEXTS).keys(),
    "values": lambda: dict(enumerate(TEXTS)).values(),
    "file": lambda: io.StringIO("\n".join(TEXTS)),
}


def _plain(value: object) -> str:
    """Return a name of a value that is the same in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))


@pytest.mark.parametrize("name", ITERABLES)
def test_iterables_of_texts(model: Model, name: str) -> None:
    make, expected = ITERABLES[name], [answer.label for answer in model.run(TEXTS, "topic")]
    assert [answer.label for answer in model.run(make(), "topic")] == expected
    assert [answer.label for answer in model.task("topic")(make())] == expected
    assert model.task("topic").embed(make()).shape == model.embed(make()).shape == (3, 32)
    assert len(model.task("topic").scores(make())) == 3


def test_column_of_a_table(model: Model) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS, "task": ["topic", "sentiment", "topic"]}, index=[7, 8, 9])
    answers = model.run(table["text"], table["task"])
    assert [answer.task for answer in answers] == ["topic", "sentiment", "topic"]
    with pytest.raises(InputError, match="the texts are a DataFrame; pass a list of texts, or one column of a table"):
        model.task("topic")(table)


def test_pairs(model: Model) -> None:
    pairs = [("a film", "a movie"), ("atom", "law")]
    expected = [answer.label for answer in model.run(pairs, "same")]
    same = model.task("same")
    assert [answer.label for answer in same(pair for pair in pairs)] == expected
    assert [answer.label for answer in same(np.array(pairs))] == expected
    assert [answer.label for answer in same(zip(*zip(*pairs, strict=True), strict=True))] == expected
    assert same(pairs[0]).label == expected[0]  # a tuple is one pair


def test_names_of_tasks(model: Model) -> None:
    names = ["topic", "sentiment", "topic"]
    for tasks in (iter(names), tuple(names), np.array(names), (name for name in names)):
        assert [answer.task for answer in model.run(TEXTS, tasks)] == names


def test_streams_of_inputs_are_not_single() -> None:
    assert is_single("a")
    assert is_single(("a", "b"))
    assert is_single(None)
    assert not is_single(iter(()))
    assert not is_single({})


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (None, "the texts are a NoneType; pass a list of texts"),
        (b"film", "the texts are bytes; decode them"),
        ("film", "the texts are one text; pass a list"),
        (3, "the texts are a int"),
        ({"a": "b"}, "the texts are a dict"),
        ({"a"}, "the texts are a set"),
        (np.array("a"), "an array of 0 axes"),
        (np.full((1, 1, 1), "a"), "an array of 3 axes"),
        ([b"film"], "text 1: expected a text or a pair of texts, got bytes"),
        (["a", None], "text 2: expected a text or a pair of texts, got NoneType"),
        ([float("nan")], "text 1: expected a text or a pair of texts, got float"),
        ([Path("a")], "text 1: expected a text or a pair of texts, got"),
    ],
    ids=_plain,
)  # fmt: skip
def test_texts_of_other_types(model: Model, texts: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        model.run(texts, "topic")


@pytest.mark.parametrize(
    "text", [None, b"film", 3, {"a": 1}, {"a"}, ("a", "b", "c"), np.array("a"), bytearray(b"a")], ids=_plain
)
def test_one_text_of_another_type(model: Model, text: Any) -> None:
    task = model.task("topic")
    for call in (task, task.embed, model.embed):
        with pytest.raises(InputError, match=r"pass (a|one)"):
            call(text)


@pytest.mark.parametrize(
    "tasks", [None, 3, b"topic", ["topic", None, 3], {"topic": 1}, {"topic"}, [["topic"]] * 3], ids=_plain
)
def test_tasks_of_other_types(model: Model, tasks: Any) -> None:
    with pytest.raises(InputError, match="name"):
        model.run(TEXTS, tasks)


def test_selected_task_in_place_of_its_name(model: Model) -> None:
    with pytest.raises(InputError, match="the tasks are a Task; pass one task's name"):
        model.run(TEXTS, model.task("topic"))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", [None, 3, ["topic"], b"topic"], ids=_plain)
def test_task_by_other_than_a_name(model: Model, name: Any) -> None:
    with pytest.raises(InputError, match="a task is named by a str, not by"):
        model.task(name)


@pytest.mark.parametrize("answers", ["Prediction", 3, int, Prediction], ids=_plain)
def test_class_of_answers(model: Model, answers: Any) -> None:
    if answers is Prediction:
        assert model.task("topic", answers).name == "topic"
        return
    with pytest.raises(InputError, match=r"pass a class of answers, such as mpt_edge.Prediction"):
        model.task("topic", answers)


@pytest.mark.parametrize("size", ["x", "8", 0, 2.0, None, True, float("nan")], ids=_plain)
def test_batch_size(model: Model, size: Any) -> None:
    with pytest.raises(InputError, match=r"a batch size of .* is not possible; pass 1 or more"):
        model.run(TEXTS, "topic", batch_size=size)


def test_batch_size_of_numpy(model: Model) -> None:
    assert len(model.run(TEXTS, "topic", batch_size=np.int64(2))) == 3


@pytest.mark.parametrize("k", ["2", None, 0, 1.5], ids=_plain)
def test_number_of_labels(k: Any) -> None:
    with pytest.raises(InputError, match="pass 1 or more"):
        Prediction(task="a", label="b", score=1.0).top_k(k)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"threads": "2"}, "'2' threads are not possible here; pass 1 to"),
        ({"threads": 1.0}, "1.0 threads are not possible"),
        ({"threads": True}, "True threads are not possible"),
        ({"threads": 0}, "0 threads are not possible"),
        ({"precision": 8}, "has no 8 graph, only float32"),
        ({"precision": ["int8"]}, "only float32"),
        ({"providers": "CPUExecutionProvider"}, "pass a list such as"),
        ({"providers": 3}, "pass a list such as"),
        ({"providers": []}, "pass a list such as"),
        ({"providers": iter(["CPUExecutionProvider"])}, "pass a list such as"),
        ({"providers": [3]}, "no provider 3"),
    ],
    ids=_plain,
)
def test_options_of_load(tiny_bundle: Path, options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        mpt_edge.load(tiny_bundle, **options)


def test_threads_of_numpy(tiny_bundle: Path) -> None:
    assert mpt_edge.load(tiny_bundle, threads=np.int64(1), providers=("CPUExecutionProvider",)).tasks


@pytest.mark.parametrize("path", [3, b"bundle", ["a"], {}, "a\0b"], ids=_plain)
def test_paths_of_other_types(model: Model, tiny_bundle: Path, shared_prompt: SharedPrompt, path: Any) -> None:
    bundle = Bundle.open(tiny_bundle)
    calls = [mpt_edge.load, Bundle.open, bundle.install_untested, model.add_task, TaskFile.load, SharedPrompt.load]
    for call in [*calls, shared_prompt.save, bundle.task("topic").save, VectorFolder]:
        with pytest.raises(InputError, match="is no path"):
            call(path)


def test_no_path_at_all() -> None:
    with pytest.raises(InputError, match=r"None is no path; pass a str or a pathlib.Path"):
        Bundle.open(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [3, None, ["topic"]], ids=_plain)
def test_bundle_without_such_a_task(folder: Path, name: Any) -> None:
    bundle = Bundle.open(folder)
    for call in (bundle.remove, bundle.rollback, bundle.task):
        with pytest.raises(mpt_edge.UnknownTaskError, match=r"it has same, sentiment, topic|did you mean 'topic'"):
            call(name)


def test_vectors_are_saved_by_str_and_into_new_folders(tiny_bundle: Path, tmp_path: Path) -> None:
    task = Bundle.open(tiny_bundle).task("topic")
    task.save(str(tmp_path / "new" / "folder" / "topic.safetensors"))
    assert TaskFile.load(str(tmp_path / "new" / "folder" / "topic.safetensors")).labels == task.labels
    with pytest.raises(InputError, match="is a folder; pass the path of a file"):
        task.save(tmp_path)


def test_vectors_of_other_types(shared_prompt: SharedPrompt) -> None:
    with pytest.raises(InputError, match="a numpy array of values and a Placement"):
        SharedPrompt("mpt", shared_prompt.values, "prefix", "0")  # type: ignore[arg-type]
    given: dict[str, Any] = {"name": "a", "head_type": "similarity", "backbone": "0", "tokenizer": "0"}
    with pytest.raises(InputError, match="u and v of a task are numpy arrays"):
        TaskFile(**given, u=[1.0], v=[1.0])
    ones = np.ones(2, np.float32)
    for changes in ({"name": 3}, {"labels": "ab"}):
        with pytest.raises(InputError, match="a str as its name and a tuple of labels"):
            TaskFile(**given | changes, u=ones, v=ones)


def test_stop_texts_of_options() -> None:
    assert GenerationOptions(stop=".").stop == GenerationOptions(stop=["."]).stop == (".",)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stop must be a text or a list of texts, not None"):
        GenerationOptions(stop=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match='true, false or "never"'):
        GenerationOptions(early_stopping=np.array([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the options are 3; pass a dict"):
        GenerationOptions.parse(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [None, 3, b"a"], ids=_plain)
def test_target_of_another_type(writing_model: Model, target: Any) -> None:
    with pytest.raises(InputError, match=r"the target text is .*; pass a str"):
        writing_model.log_likelihood("a", writing_model.tasks[0], target)


@pytest.mark.parametrize("text", [None, ["a"], b"a", iter("a")], ids=_plain)
def test_stream_takes_one_text(writing_model: Model, text: Any) -> None:
    name = next(name for name in writing_model.tasks if writing_model.task(name).file.head_type == "generation")
    with pytest.raises(InputError, match="pass a str"):
        writing_model.task(name).stream(text)
