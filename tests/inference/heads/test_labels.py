"""Labels that a model cannot tell apart are refused, whatever reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.errors import MismatchError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.head_types import HeadType
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.formats.placement import Placement
from mpt_edge.formats.taskfile import TaskFile
from mpt_edge.inference.heads import HEAD_TYPES, Choice, Mask, Similarity
from mpt_edge.inference.heads.labels import check_task_labels, check_tokens, label_problem
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge.training.backbones.generative_backbone import GenerativeBackbone
from mpt_edge.training.backbones.locating import locate_model
from tests.support.heads import compose, make_file
from tests.support.places import ROOT

LONG = "film ball game vote law party atom cell"
SPACES = "differ only in spaces or in the encoding of accents"

Groups = list[tuple[str, ...]]


def problem(
    backbone: EncoderBackbone | GenerativeBackbone,
    labels: tuple[str, ...],
    groups: Groups,
    head_type: type[HeadType] = Similarity,
    max_length: int = 16,
) -> str | None:
    return label_problem(backbone.texts, head_type, labels, groups, max_length=max_length, fix="use other words")


@pytest.mark.parametrize("head_type", [Similarity, Mask, Choice])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\U0001f600", "\U0001f61e"),  # both unknown
        ("US", "us"),
        ("good \U0001f600", "good \U0001f61e"),
        ("caf\u00e9", "caf\u00e8"),
        ("good,", "good ,"),
    ],
)
def test_texts_of_the_same_tokens(tiny: EncoderBackbone, one: str, other: str, head_type: type[HeadType]) -> None:
    labels = ("a", one, "b", other)
    found = problem(tiny, labels, [(label,) for label in labels], head_type)
    assert found == f"the labels {one!r} and {other!r} have the same tokens; use other words."


@pytest.mark.parametrize(("one", "other"), [("good", "good "), ("\tgood film", "good  film"), ("\u00e9", "e\u0301")])
def test_names_that_look_the_same(writer: GenerativeBackbone, one: str, other: str) -> None:
    """A byte-level tokenizer has other tokens for them, and no text tells them apart."""
    first, second = writer.texts.continuations([one, other])
    assert first != second
    found = problem(writer, (one, other), [("Tom",), ("Max",)], Choice)
    assert found == f"the labels {one!r} and {other!r} {SPACES}; give them one name, or names of other letters."
    found = problem(writer, ("a", "b"), [(one,), (other,)], Choice)
    assert found == "the labels 'a' and 'b' have the same tokens; use other words."


def test_a_name_that_is_there_twice(tiny: EncoderBackbone) -> None:
    assert problem(tiny, ("a", "a"), []) == "the label 'a' is there twice; name each label once."


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_without_tokens(tiny: EncoderBackbone, text: str) -> None:
    found = problem(tiny, ("a", "b"), [("good",), ("bad", text)])
    assert found == "the text of the label 'b' has no tokens for this model; use other words."


def test_several_texts_of_a_label(tiny: EncoderBackbone) -> None:
    """Labels may share texts; only those that share all of them are one."""
    labels = ("a", "b")
    assert problem(tiny, labels, [("good", "great"), ("bad", "great")]) is None
    assert problem(tiny, labels, [("good", "great"), ("Great", "good", "GOOD")]) is not None


def test_only_the_first_text_of_a_choice_is_read(writer: GenerativeBackbone) -> None:
    groups: Groups = [("He was.", "Tom"), ("He was.", "Max")]
    assert problem(writer, ("a", "b"), groups, Choice) is not None
    assert problem(writer, ("a", "b"), [group[::-1] for group in groups], Choice) is None


def test_texts_that_differ_after_the_tokens_that_are_read(tiny: EncoderBackbone) -> None:
    groups: Groups = [(f"{LONG} good",), (f"{LONG} bad",)]
    assert problem(tiny, ("a", "b"), groups, max_length=11) is None
    assert problem(tiny, ("a", "b"), groups, max_length=10) is not None


def test_labels_that_differ_in_case_for_a_tokenizer_with_case(writer: GenerativeBackbone) -> None:
    assert problem(writer, ("US", "us"), [("US",), ("us",)], Choice) is None


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_tasks_by_whether_their_label_texts_are_read(tiny_bundle: Path, head_type: type[HeadType]) -> None:
    texts = mpt_edge.load(tiny_bundle, threads=1).texts
    task = replace(Bundle.open(tiny_bundle).task("same"), head_type=head_type.name, label_texts=(("us",), ("US",)))
    if not head_type.has_label_texts:
        check_task_labels(task, texts)
        return
    with pytest.raises(MismatchError) as caught:
        check_task_labels(task, texts)
    assert str(caught.value) == (
        "'same' cannot be used: the labels 'no' and 'yes' have the same tokens; train the task again with other label "
        "texts."
    )


def test_tokens_of_several_texts(tiny_bundle: Path) -> None:
    task = Bundle.open(tiny_bundle).task("same")
    check_tokens(task, [0, 1, 0], [[5], [5], [6]])
    with pytest.raises(MismatchError, match="the labels 'no' and 'yes' have the same tokens"):
        check_tokens(task, [0, 1, 0, 1], [[5], [6], [6], [5]])
    with pytest.raises(MismatchError, match="the text of the label 'yes' has no tokens"):
        check_tokens(task, [0, 1], [[5], []])


@pytest.mark.parametrize(("bundle", "name"), [("tiny_bundle", "topic"), ("writer_bundle", "mood")])
def test_such_a_task_is_not_selected(bundle: str, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Another trainer may have made it, or it was changed on the way."""
    folder: Path = request.getfixturevalue(bundle)
    task: TaskFile = Bundle.open(folder).task(name)
    changed = replace(task, label_texts=(task.label_texts[0],) * len(task.labels))
    changed.save(tmp_path / "task.safetensors")
    with pytest.raises(MismatchError, match=f"'{name}' cannot be used: the labels .* have the same tokens; train"):
        mpt_edge.load(folder, threads=1).add_task(tmp_path / "task.safetensors")


def test_a_label_text_of_special_tokens_alone_is_not_selected(tiny_bundle: Path, tmp_path: Path) -> None:
    task = Bundle.open(tiny_bundle).task("same")
    replace(task, label_texts=(("good",), ("\n",))).save(tmp_path / "task.safetensors")
    with pytest.raises(MismatchError, match="the text of the label 'yes' has no tokens for this model"):
        mpt_edge.load(tiny_bundle, threads=1).add_task(tmp_path / "task.safetensors")


def test_words_at_a_mask_that_are_one_are_not_selected(tiny: EncoderBackbone, tiny_bundle: Path) -> None:
    class Reader:
        texts = tiny.texts
        manifest = replace(Bundle.open(tiny_bundle).manifest, mask=MaskToken(4, "[MASK]"))

    texts = (("good", "great"), ("Great", "GOOD"))
    file = make_file("mask", ("no", "yes"), template="{text} {text_pair} [MASK]", label_texts=texts)
    with pytest.raises(MismatchError, match="'t' cannot be used: the labels 'no' and 'yes' have the same tokens"):
        Mask.prepare(compose(file, None, Placement()), Reader())  # type: ignore[arg-type]


def test_shipped_tasks_are_told_apart() -> None:
    texts = TextEncoder((locate_model("minilm-l6").folder / "tokenizer.json").read_bytes())
    files = list((ROOT / "models/minilm-l6/tasks").glob("*.safetensors"))
    assert files
    for path in files:
        check_task_labels(TaskFile.load(path), texts)
