from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats.metrics import headline_text
from mpt_edge.formats.taskfile import FORMAT, MAX_TASK_BYTES, TaskFile

LABELS = {
    "abbreviation": "an abbreviation or what it stands for",
    "description": "a description, definition or reason",
    "entity": "a thing, animal, product or word",
    "human": "a person or group of people",
    "location": "a place, city or country",
    "number": "a number, date or amount",
    "event": "an event, a holiday or a historical occasion",
    "work_of_art": "a book, film, song, painting or another work of art",
    "organisation": "a company, team, party or other organisation",
    "other": "anything that is none of the other nine kinds",
}


def figures(rows: int) -> dict[str, float]:
    return {"accuracy": 0.8734, "macro_f1": 0.8612, "rows": rows}


@pytest.fixture
def task() -> TaskFile:
    """A task of the default bundle's size, described as training describes it."""
    rng = np.random.default_rng(0)
    probe = {"validation": figures(545), "test": figures(500), "C": 0.333333, "standardized": True, "train_rows": 4907}
    return TaskFile(
        name="trec",
        kind="classification",
        labels=tuple(LABELS),
        label_texts=tuple((text,) for text in LABELS.values()),
        u=rng.normal(1, 0.3, 100).astype(np.float16),
        v=rng.normal(1, 0.3, 384).astype(np.float16),
        prompt="mpt",
        prompt_sha256="a1" * 32,
        backbone="b2" * 32,
        tokenizer="c3" * 32,
        template="Question: {text}",
        max_length=64,
        scale=27.183,
        version=3,
        reference_example={
            "text": "What is the capital of the country with most lakes ?",
            "label": "location",
            "score": 0.91234,
        },
        metrics={"validation": figures(545), "test": figures(500), "probe": probe},
        training={
            "stage": "target",
            "rows": 4907,
            "seed": 0,
            "source": "harvardnlp/sent-conv-torch data/raw/TREC.{train,test}",
        },
        license="unstated",
    )


def same(one: TaskFile, other: TaskFile) -> bool:
    """Whether two tasks have equal entries, tensors bit by bit."""
    blank = {"u": None, "v": None, "own_prompt": None}
    tensors = [(getattr(one, name), getattr(other, name)) for name in blank]
    equal = all(
        (a is None and b is None) or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
        for a, b in tensors
    )
    return equal and replace(one, **blank) == replace(other, **blank)


def changed(data: bytes, metadata: dict[str, str | None] = {}, **arrays: np.ndarray | None) -> bytes:  # noqa: B006
    """Return a task file with other metadata or tensors, made by hand, so without a hash; None takes one away."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    values = {**header["__metadata__"], "sha256": None, **metadata}
    parts = {**load(data), **arrays}
    return save({k: a for k, a in parts.items() if a is not None}, {k: t for k, t in values.items() if t is not None})


@pytest.fixture
def data(task: TaskFile, tmp_path: Path) -> bytes:
    task.save(tmp_path / "t")
    return (tmp_path / "t").read_bytes()


def test_round_trip(task: TaskFile, tmp_path: Path) -> None:
    file = tmp_path / "tasks" / "trec.safetensors"
    task.save(file)
    loaded = TaskFile.load(file)
    assert same(loaded, task)
    assert loaded.two_vectors
    assert [f.name for f in file.parent.iterdir()] == ["trec.safetensors"]
    assert not same(replace(task, u=task.u[::-1]), task)


def test_round_trip_with_its_own_prompt(task: TaskFile, tmp_path: Path) -> None:
    own = np.random.default_rng(1).standard_normal((100, 384)).astype(np.float32)
    entries = {"layout": "joint", "entry": "inputs_embeds", "kind": "pair", "template": "{text} ü {text_pair}"}
    task = replace(task, own_prompt=own, u=task.u.astype(np.float32), **entries)
    task.save(tmp_path / "t")
    loaded = TaskFile.load(tmp_path / "t")
    assert same(loaded, task)
    assert not loaded.two_vectors


def test_several_texts_a_label(task: TaskFile, tmp_path: Path) -> None:
    task = replace(task, label_texts=tuple((text, f"{text} ü", "x") for text in LABELS.values()))
    task.save(tmp_path / "t")
    assert same(TaskFile.load(tmp_path / "t"), task)


def test_stays_below_four_kilobytes(task: TaskFile, data: bytes) -> None:
    assert len(task.labels) == 10
    assert (task.u.size + task.v.size, task.u.dtype, task.v.dtype) == (484, np.float16, np.float16)
    assert 968 < len(data) <= 4096


def test_saving_twice_replaces(task: TaskFile, tmp_path: Path) -> None:
    task.save(tmp_path / "t")
    task = replace(task, version=4)
    task.save(tmp_path / "t")
    assert TaskFile.load(tmp_path / "t").version == 4


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format": "mpt-edge task 2"}, "found 'mpt-edge task 2', expected 'mpt-edge task 1'"),
        ({"format": "mpt-edge prompt 1"}, "not a task file"),
        ({"format": None}, "no format entry"),
        ({"task": "../evil"}, "name '../evil' is not allowed"),
        ({"task": "a/b"}, "not allowed"),
        ({"task": ".hidden"}, "not allowed"),
        ({"task": "a\n"}, "not allowed"),
        ({"task": "x" * 65}, "not allowed"),
        ({"task": None}, "not allowed"),
        ({"kind": "poetry"}, "kind 'poetry' is unknown"),
        ({"readout": "guess"}, "readout 'guess' is unknown"),
        ({"template": "Question: {}"}, "its template lacks {text}"),
        ({"kind": "pair"}, "its template lacks {text} or {text_pair}"),
        ({"layout": "joint", "entry": "every_layer"}, "or they do not go together"),
        ({"layout": "sideways", "entry": "first_layer"}, "layout or entry of its own prompt is unknown"),
        ({"labels": "[]"}, "do not pair up"),
        ({"labels": '["a"]', "label_texts": '[["a"]]'}, "do not pair up"),
        ({"labels": '["a","a"]', "label_texts": '[["a"],["b"]]'}, "do not pair up"),
        ({"labels": '["a","b"]', "label_texts": '[["a"],[]]'}, "do not pair up"),
        ({"labels": '{"a":1}'}, "'labels' is not a JSON list"),
        ({"label_texts": "[["}, "'label_texts' is not JSON"),
        ({"metrics": "[]"}, "'metrics' is not a JSON dict"),
        ({"reference_example": "nonsense"}, "'reference_example' is not JSON"),
        ({"max_length": "2"}, "max_length is below 3"),
        ({"max_length": "many"}, "'max_length' is missing or no number"),
        ({"max_length": None}, "'max_length' is missing or no number"),
        ({"version": "1.5"}, "'version' is missing or no number"),
        ({"scale": "nan"}, "scale is not a positive number"),
        ({"scale": "inf"}, "scale is not a positive number"),
        ({"scale": "0"}, "scale is not a positive number"),
        ({"scale": "1e308"}, "scale is not a positive number up to 1000000"),
        ({"readout": "classifier", "labels": '["a","b"]', "label_texts": "[[]]"}, "do not pair up"),
        ({"readout": "classifier", "labels": '["a","b"]', "label_texts": '[["a"],[]]'}, "do not pair up"),
        ({"readout": "embedding", "label_texts": '[["a"]]'}, "do not pair up"),
        ({"readout": "similarity", "label_texts": "[]"}, "do not pair up"),
        ({"readout": "mask", "label_texts": "[]"}, "do not pair up"),
        ({"readout": "choice", "label_texts": "[]"}, "do not pair up"),
        ({"metrics": '{"test":5}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":null}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"validation":[]}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":"abc"}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":null}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":1' + "0" * 400 + "}}"}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"a\\u001b[2J":1}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"probe":3}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"probe":{"test":{"accuracy":"abc"}}}'}, "its metrics are not numbers by name"),
        ({"labels": '["a","\\ud800"]', "label_texts": '[["a"],["b"]]'}, "'labels' is not JSON"),
        ({"generation": '{"max_new_tokens":"many"}'}, "its generation entries cannot be used"),
        ({"generation": '{"max_new_tokens":0}'}, "its generation entries cannot be used"),
        ({"generation": '{"stop":[3]}'}, "its generation entries cannot be used"),
        ({"generation": '{"cut":"middle"}'}, "its generation entries cannot be used"),
    ],
    ids=lambda value: ",".join(f"{k}={v!s:.12}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_metadata(data: bytes, metadata: dict[str, str | None], says: str) -> None:
    TaskFile.parse(changed(data), "here")  # unchanged it is fine
    with pytest.raises(CorruptFileError, match=says) as caught:
        TaskFile.parse(changed(data, metadata), "here")
    assert str(caught.value).startswith("here")


@pytest.mark.parametrize("readout", ["embedding", "span", "generation"])
def test_what_answers_with_no_label_needs_none(data: bytes, readout: str) -> None:
    entries: dict[str, str | None] = {"readout": readout, "labels": "[]", "label_texts": "[]"}
    assert TaskFile.parse(changed(data, entries), "here").labels == ()


def test_a_task_with_a_prompt_of_its_own_has_its_head(task: TaskFile, tmp_path: Path) -> None:
    own = np.ones((100, 384), np.float32)
    replace(task, readout="classifier", own_prompt=own, layout="joint", entry="inputs_embeds").save(tmp_path / "t")
    with pytest.raises(CorruptFileError, match="its head does not fit the readout"):
        TaskFile.load(tmp_path / "t")


def test_metrics_that_are_unusual(data: bytes) -> None:
    """What training may write, or another tool: no figures, NaN, names of their own, facts beside the splits."""
    for metrics in ("{}", '{"test":{}}', '{"test":{"pearson":NaN,"rows":3}}', '{"test":{"[/x]":0.5},"note":"x"}'):
        TaskFile.parse(changed(data, {"metrics": metrics}), "here")


@pytest.mark.parametrize("texts", ["[1,2]", '["one","two"]', "[null,[]]", '[{"a":1},["b"]]'])
def test_label_texts_that_are_no_lists(data: bytes, texts: str) -> None:
    with pytest.raises(CorruptFileError, match="here"):
        TaskFile.parse(changed(data, {"labels": '["a","b"]', "label_texts": texts}), "here")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"u": None}, "u and v are not two vectors"),
        ({"v": None}, "u and v are not two vectors"),
        ({"u": np.ones((100, 1), np.float16)}, "u and v are not two vectors"),
        ({"v": np.ones(0, np.float16)}, "u and v are not two vectors"),
        ({"v": np.array(1, np.float16)}, "u and v are not two vectors"),
        ({"u": np.array(1, np.float16)}, "u and v are not two vectors"),
        ({"prompt": np.ones((99, 384), np.float16)}, "its own prompt does not fit"),
        ({"prompt": np.ones(384, np.float16)}, "its own prompt does not fit"),
        ({"prompt": np.ones((100, 384), np.float16)}, "does not say in which layout, or where it enters"),
        ({"u": np.full(100, np.nan, np.float16)}, "'u' holds NaN"),
        ({"v": np.full(384, np.inf, np.float32)}, "'v' holds NaN or infinity"),
        ({"u": np.ones(100, np.int64)}, "'u' is int64"),
        ({"v": np.ones(384, np.float64)}, "'v' is float64"),
    ],
)
def test_bad_tensors(data: bytes, arrays: dict[str, np.ndarray | None], says: str) -> None:
    with pytest.raises(CorruptFileError, match=says):
        TaskFile.parse(changed(data, **arrays), "here")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_file(data: bytes, part: float, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CorruptFileError, match="not a readable safetensors"):
        TaskFile.load(tmp_path / "t")


def test_random_bytes(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(np.random.default_rng(3).bytes(3000))
    with pytest.raises(CorruptFileError, match="not a readable safetensors"):
        TaskFile.load(tmp_path / "t")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CorruptFileError, match="cannot read"):
            TaskFile.load(path)


def test_a_prompt_that_has_a_file_may_be_carried(data: bytes, tmp_path: Path) -> None:
    """`--train prompt` writes the copy of a shared prompt into the task: here 100 rows at 28 layers of 3,584."""
    prompt = np.ones((100, 28, 3584), np.float16)
    u, v = np.ones(100, np.float16), np.ones(3584, np.float16)
    file = replace(TaskFile.parse(data, "here"), u=u, v=v, own_prompt=prompt, layout="prefix", entry="every_layer")
    file.save(tmp_path / "t")
    assert TaskFile.load(tmp_path / "t").carries == "u, v and its own prompt"


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "t").open("wb") as stream:
        stream.truncate(MAX_TASK_BYTES + 1)
    with pytest.raises(CorruptFileError, match="more than"):
        TaskFile.load(tmp_path / "t")


def test_format_is_the_first_version() -> None:
    assert FORMAT == "mpt-edge task 1"  # a change of it needs a reader of the old one


@pytest.mark.parametrize(
    ("figures", "plain", "percent"),
    [
        ({"rows": 12, "loss": 0.4, "matthews": 0.5, "accuracy": 0.8342}, "0.834", "83.4"),
        ({"rows": 12, "loss": 0.4, "f1": 0.25, "rouge": 0.5}, "f1 0.250", "f1 25.0"),
        ({"rows": 12}, "-", "-"),
        ({}, "-", "-"),
        (None, "-", "-"),
    ],
)
def test_headline_in_a_table(figures: dict[str, float] | None, plain: str, percent: str) -> None:
    assert headline_text(figures, 3) == plain
    assert headline_text(figures, 1, percent=True) == percent
