"""The task file: round trips, and everything that is refused."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from mpt_edge.errors import CorruptFileError
from mpt_edge.formats import tensors
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.formats.placement import PEFT_PLACEMENT, Placement, PromptPosition
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import FORMAT, MAX_TASK_BYTES, Inputs, Side, TaskFile

LABELS = {
    "abbreviation": "an abbreviation or what it stands for",
    "description": "a description, definition or reason",
    "entity": "a thing, animal, product or word",
    "human": "a person or group of people",
    "location": "a place, city or country",
    "number": "a number, date or amount",
    "event": "an event, a holiday or a historical occasion",
    "work_of_art": "a book, film, song, painting or another work of art",
    "organization": "a company, team, party or other organization",
    "other": "anything that is none of the other nine kinds",
}


def metrics(examples: int) -> dict[str, float]:
    return {"accuracy": 0.8734, "macro_f1": 0.8612, "examples": examples}


def own_prompt(values: np.ndarray, placement: Placement = PEFT_PLACEMENT) -> SharedPrompt:
    return SharedPrompt("trec", values, placement, "b2" * 32)


VERSION = "its version is no whole number from 1 to 2,147,483,647; train it again with --task-version."
BAD_VERSIONS = ("", "0", "-7", "+1", "01", "1.5", "1.0", "1e1", " 1", "1_0", "\u0661", "2147483648", "9" * 300)


@pytest.fixture
def task() -> TaskFile:
    """Return a task of the default bundle's size, with the entries that training writes."""
    rng = np.random.default_rng(0)
    probe = {"validation": metrics(545), "test": metrics(500), "C": 0.333333, "standardized": True}
    probe["train_examples"] = 4907
    return TaskFile(
        name="trec",
        head_type="similarity",
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
        metrics={"validation": metrics(545), "test": metrics(500), "linear_probe": probe},
        training={
            "stage": "target",
            "examples": 4907,
            "seed": 0,
            "source": "harvardnlp/sent-conv-torch data/raw/TREC.{train,test}",
        },
        license="cc-by-4.0",
    )


def same(one: TaskFile, other: TaskFile) -> bool:
    """Whether two tasks have equal entries, tensors bit by bit."""
    nothing = np.empty(0)
    blank = {"u": nothing, "v": nothing, "own_prompt": None}
    arrays = [(one.u, other.u), (one.v, other.v)]
    prompts = [task.own_prompt and replace(task.own_prompt, values=nothing) for task in (one, other)]
    if one.own_prompt and other.own_prompt:
        arrays.append((one.own_prompt.values, other.own_prompt.values))
    are_equal = all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in arrays)
    return are_equal and prompts[0] == prompts[1] and replace(one, **blank) == replace(other, **blank)


def changed(data: bytes, metadata: dict[str, str | None] = {}, **arrays: np.ndarray | None) -> bytes:  # noqa: B006
    """Return a task file with other metadata or tensors and a hash of them; None takes one away."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    values = {**header["__metadata__"], "sha256": None, **metadata}
    parts = {key: array for key, array in {**load(data), **arrays}.items() if array is not None}
    with tempfile.TemporaryDirectory() as folder:
        tensors.write(Path(folder, "t"), parts, values)
        return Path(folder, "t").read_bytes()


@pytest.fixture
def data(task: TaskFile, tmp_path: Path) -> bytes:
    task.save(tmp_path / "t")
    return (tmp_path / "t").read_bytes()


def test_round_trip(task: TaskFile, tmp_path: Path) -> None:
    file = tmp_path / "tasks" / "trec.safetensors"
    task.save(file)
    loaded = TaskFile.load(file)
    assert same(loaded, task)
    assert loaded.is_two_vectors
    assert [f.name for f in file.parent.iterdir()] == ["trec.safetensors"]
    assert not same(replace(task, u=task.u[::-1]), task)


def test_round_trip_with_its_own_prompt(task: TaskFile, tmp_path: Path) -> None:
    own = np.random.default_rng(1).standard_normal((100, 384)).astype(np.float32)
    carried = replace(own_prompt(own), training=task.training, license=task.license)
    entries = {"inputs": Inputs.PAIR, "template": "{text} ü {text_pair}", "truncation_side": Side.LEFT}
    task = replace(task, own_prompt=carried, u=task.u.astype(np.float32), prompt=None, prompt_sha256=None, **entries)
    task.save(tmp_path / "t")
    loaded = TaskFile.load(tmp_path / "t")
    assert same(loaded, task)
    assert not loaded.is_two_vectors


def chatting(task: TaskFile) -> TaskFile:
    """Return a task that generates text, in a chat."""
    return replace(task, head_type="generation", labels=(), label_texts=(), chat=ChatFrame("<s>", "</s>", trims=True))


def test_round_trip_with_a_chat(task: TaskFile, tmp_path: Path) -> None:
    chatting(task).save(tmp_path / "a.safetensors")
    assert TaskFile.load(tmp_path / "a.safetensors").chat == ChatFrame("<s>", "</s>", trims=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chat": ChatFrame("a" * 20_000, "")}, "its template has 20,000 characters"),
        ({"inputs": Inputs.PAIR, "template": None}, "a pair without a template is no message of a chat"),
    ],
)
def test_chat_that_cannot_be_used(task: TaskFile, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    replace(chatting(task), **changes).save(tmp_path / "a.safetensors")
    with pytest.raises(CorruptFileError, match=says):
        TaskFile.load(tmp_path / "a.safetensors")


def test_chat_of_an_encoder(task: TaskFile, tmp_path: Path) -> None:
    replace(task, chat=ChatFrame("", "")).save(tmp_path / "a.safetensors")
    with pytest.raises(CorruptFileError, match="a chat is for generative models"):
        TaskFile.load(tmp_path / "a.safetensors")


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
        ({"inputs": "poetry"}, "inputs 'poetry' is unknown"),
        ({"head_type": "guess"}, "head type 'guess' is unknown"),
        ({"head_type": None}, "head type '' is unknown"),
        ({"truncation_side": "middle"}, "truncation_side 'middle' is unknown"),
        ({"chat": "{}"}, "a chat frame has the entries before, after, trims; train the task again"),
        ({"chat": '{"before": 1, "after": "", "trims": true}'}, "a chat frame has the entries"),
        ({"chat": "[]"}, "'chat'"),
        ({"template": "Question: {}"}, "its template lacks {text}"),
        ({"inputs": "pair"}, "its template lacks {text} or {text_pair}"),
        ({"layout": "joint", "prompt_position": "embeddings"}, "describes a prompt of its own and holds none"),
        ({"head": '["tanh"]'}, "describes a prompt of its own and holds none"),
        ({"labels": "[]"}, "do not pair up"),
        ({"labels": '["a"]', "label_texts": "[]", "head_type": "tokens"}, "at least 2 labels, all different"),
        ({"labels": '["a"]', "label_texts": '[["a"]]'}, "at least 2 labels, all different"),
        ({"labels": '["a","a"]', "label_texts": '[["a"],["b"]]'}, "at least 2 labels, all different"),
        ({"labels": '["a","b"]', "label_texts": '[["a"],[]]'}, "do not pair up"),
        ({"labels": '{"a":1}'}, "'labels' is not a JSON list"),
        ({"label_texts": "[["}, "'label_texts' is not JSON"),
        ({"metrics": "[]"}, "'metrics' is not a JSON dict"),
        ({"reference_example": "nonsense"}, "'reference_example' is not JSON"),
        ({"max_length": "2"}, "max_length is below 3"),
        ({"max_length": "many"}, "'max_length' is missing or no number"),
        ({"max_length": None}, "'max_length' is missing or no number"),
        *(({"version": text}, VERSION) for text in BAD_VERSIONS),
        ({"version": None}, VERSION),
        ({"scale": "nan"}, "scale is not a positive number"),
        ({"scale": "inf"}, "scale is not a positive number"),
        ({"scale": "0"}, "scale is not a positive number"),
        ({"scale": "1e308"}, "scale is not a positive number up to 1000000"),
        ({"threshold": "1.5"}, "its threshold is no probability"),
        ({"threshold": "nan"}, "its threshold is no probability"),
        ({"threshold": "high"}, "'threshold' is missing or no number"),
        ({"head_type": "classifier", "labels": '["a","b"]', "label_texts": "[[]]"}, "do not pair up"),
        ({"head_type": "classifier", "labels": '["a","b"]', "label_texts": '[["a"],[]]'}, "do not pair up"),
        ({"head_type": "embedding", "label_texts": '[["a"]]'}, "do not pair up"),
        ({"head_type": "similarity", "label_texts": "[]"}, "do not pair up"),
        ({"head_type": "mask", "label_texts": "[]"}, "do not pair up"),
        ({"head_type": "choice", "label_texts": "[]"}, "do not pair up"),
        ({"metrics": '{"test":5}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":null}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"validation":[]}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":"abc"}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":null}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"accuracy":1' + "0" * 400 + "}}"}, "its metrics are not numbers by name"),
        ({"metrics": '{"test":{"a\\u001b[2J":1}}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"linear_probe":3}'}, "its metrics are not numbers by name"),
        ({"metrics": '{"linear_probe":{"test":{"accuracy":"abc"}}}'}, "its metrics are not numbers by name"),
        ({"labels": '["a","\\ud800"]', "label_texts": '[["a"],["b"]]'}, "'labels' is not JSON"),
        ({"generation": '{"max_new_tokens":"many"}'}, "its generation entries cannot be used"),
        ({"generation": '{"max_new_tokens":0}'}, "its generation entries cannot be used"),
        ({"generation": '{"stop":[3]}'}, "its generation entries cannot be used"),
        ({"generation": '{"cut":"left"}'}, "its generation entries cannot be used"),
    ],
    ids=lambda value: ",".join(f"{k}={v!s:.12}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_metadata(data: bytes, metadata: dict[str, str | None], says: str) -> None:
    TaskFile.parse(changed(data), "here")  # unchanged it is fine
    with pytest.raises(CorruptFileError, match=says) as caught:
        TaskFile.parse(changed(data, metadata), "here")
    assert str(caught.value).startswith("here")


@pytest.mark.parametrize(
    ("head_type", "more"),
    [("embedding", {}), ("span", {"inputs": "pair", "template": None}), ("generation", {})],
    ids=["embedding", "span", "generation"],
)
def test_head_types_without_labels(data: bytes, head_type: str, more: dict[str, str | None]) -> None:
    entries: dict[str, str | None] = {"head_type": head_type, "labels": "[]", "label_texts": "[]", **more}
    assert TaskFile.parse(changed(data, entries), "here").labels == ()


def test_own_prompt_without_the_head_of_its_type(task: TaskFile, tmp_path: Path) -> None:
    own = own_prompt(np.ones((100, 384), np.float32))
    replace(task, head_type="classifier", own_prompt=own).save(tmp_path / "t")
    with pytest.raises(CorruptFileError, match="its linear head does not fit the head type"):
        TaskFile.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("head_type", "outputs", "fits"),
    [("classifier", 10, True), ("classifier", 9, False), ("similarity", 10, False), ("span", 2, True)],
)
def test_own_prompt_with_a_head(task: TaskFile, tmp_path: Path, head_type: str, outputs: int, fits: bool) -> None:
    layer = LinearLayer(np.ones((outputs, 384), np.float32), np.ones(outputs, np.float32))
    own = replace(own_prompt(np.ones((100, 384), np.float32)), head=LinearHead((layer,)))
    pair = {"inputs": Inputs.PAIR, "template": None} if head_type == "span" else {}
    replace(task, head_type=head_type, own_prompt=own, **pair).save(tmp_path / "t")
    with nullcontext() if fits else pytest.raises(CorruptFileError, match="its linear head does not fit"):
        loaded = TaskFile.load(tmp_path / "t")
        assert loaded.contents == "u, v, its own prompt and a head"
        assert loaded.own_prompt is not None
        assert loaded.own_prompt.head is not None
        assert loaded.own_prompt.head.outputs == outputs


@pytest.mark.parametrize(
    ("shape", "entries"),
    [
        ((99, 384), {}),
        ((384,), {}),
        ((100, 384), {"layout": "sideways"}),
        ((100, 384), {"layout": None}),
        ((100, 384), {"prompt_position": None}),
        ((100, 384), {"prompt_position": "all_layers"}),
        ((100, 2, 384), {"layout": "joint", "prompt_position": "all_layers"}),
    ],
    ids=str,
)
def test_own_prompt_of_another_shape_or_placement(
    data: bytes, shape: tuple[int, ...], entries: dict[str, str | None]
) -> None:
    stated = {"layout": "prefix", "prompt_position": "first_layer", **entries}
    with pytest.raises(CorruptFileError, match="its own prompt does not fit"):
        TaskFile.parse(changed(data, stated, prompt=np.ones(shape, np.float16)), "here")


def test_tensors_that_belong_to_nothing(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match="describes a prompt of its own and holds none"):
        TaskFile.parse(changed(data, {}, w=np.ones(3, np.float16)), "here")


def test_head_class_of_an_unknown_type(task: TaskFile) -> None:
    assert task.head_class.name == "similarity"
    with pytest.raises(CorruptFileError, match="'trec' has the unknown head type 'guess'"):
        _ = replace(task, head_type="guess").head_class


def test_repr_leaves_arrays_and_texts_out(task: TaskFile) -> None:
    text = repr(replace(task, own_prompt=own_prompt(np.ones((100, 384), np.float32))))
    assert len(text) < 400
    assert text.startswith("TaskFile(name='trec', head_type='similarity'")


def test_metrics_that_are_unusual(data: bytes) -> None:
    """No metrics, NaN, metrics of other names, facts beside the splits."""
    for metrics in ("{}", '{"test":{}}', '{"test":{"pearson":NaN,"examples":3}}', '{"test":{"[/x]":0.5},"note":"x"}'):
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
        ({"prompt": np.ones((100, 384), np.float16)}, "its own prompt does not fit its layout and prompt position"),
        ({"u": np.full(100, np.nan, np.float16)}, "'u' holds NaN"),
        ({"v": np.full(384, np.inf, np.float32)}, "'v' holds NaN or infinity"),
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


def test_the_largest_shared_prompt_fits_in_a_task(data: bytes, tmp_path: Path) -> None:
    """`--train prompt` writes a copy of the shared prompt into the task: 100 virtual tokens, 28 layers of 3,584."""
    prompt = np.ones((100, 28, 3584), np.float16)
    u, v = np.ones(100, np.float16), np.ones(3584, np.float16)
    own = own_prompt(prompt, Placement(position=PromptPosition.ALL_LAYERS))
    file = replace(TaskFile.parse(data, "here"), u=u, v=v, own_prompt=own)
    file.save(tmp_path / "t")
    assert TaskFile.load(tmp_path / "t").contents == "u, v and its own prompt"


def test_oversized_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "t").open("wb") as stream:
        stream.truncate(MAX_TASK_BYTES + 1)
    with pytest.raises(CorruptFileError, match="more than"):
        TaskFile.load(tmp_path / "t")


def test_format_is_the_first_version() -> None:
    assert FORMAT == "mpt-edge task 1"
