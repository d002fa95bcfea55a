"""Labels that a tokenizer cannot tell apart are refused, and texts of unknown tokens say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import mpt_edge
from mpt_edge.errors import MismatchError
from mpt_edge.inference.heads import Choice, Similarity
from mpt_edge.inference.heads.labels import label_problem
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from tests.support.commands import run_here

FIX = "give one of them other words"


def problem(tiny: EncoderBackbone, labels: dict[str, str], head_type: type = Similarity) -> str | None:
    groups = [(text,) for text in labels.values()]
    return label_problem(tiny.texts, head_type, list(labels), groups, max_length=16, fix=FIX)


def test_different_labels(tiny: EncoderBackbone) -> None:
    assert problem(tiny, {"a": "good film", "b": "bad film"}) is None


@pytest.mark.parametrize("head_type", [Similarity, Choice])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("😀", "😡"),  # both are the unknown token
        ("US", "us"),  # the tokenizer lowers case
        ("good film", "good  film "),
    ],
)
def test_labels_with_the_same_tokens(tiny: EncoderBackbone, one: str, other: str, head_type: type) -> None:
    assert problem(tiny, {"x": one, "y": other}, head_type) == f"the labels 'x' and 'y' have the same tokens; {FIX}."


@pytest.mark.parametrize("other", ["good ", " good", "good\n"])
def test_names_that_differ_in_spaces(tiny: EncoderBackbone, other: str) -> None:
    found = problem(tiny, {"good": "good film", other: "bad film"})
    assert found is not None
    assert "differ only in spaces" in found


def test_names_that_differ_in_the_encoding_of_accents(tiny: EncoderBackbone) -> None:
    found = problem(tiny, {"café": "good film", "cafe\u0301": "bad film"})
    assert found is not None
    assert "encoding of accents" in found


def test_a_task_with_such_labels_is_refused_when_it_is_selected(
    tiny_bundle: Path, task_file: Callable[..., Path]
) -> None:
    model = mpt_edge.load(tiny_bundle, threads=1)
    with pytest.raises(MismatchError, match="'same_labels' cannot be used: the labels 'no' and 'yes' have the same"):
        model.add_task(task_file("same_labels", label_texts=(("😀",), ("😡",))))


def test_a_text_of_unknown_tokens_alone_says_so(tiny_bundle: Path) -> None:
    task = mpt_edge.load(tiny_bundle, threads=1).task("topic")
    unknown, known, mixed = task(["😀 😡", "ball game", "😀 ball"])
    assert (unknown.unknown, known.unknown, mixed.unknown) == (True, False, False)
    assert unknown.to_dict()["unknown"] is True
    assert "unknown" not in known.to_dict()


def test_the_command_says_so_too(tiny_bundle: Path) -> None:
    done = run_here("run", "--task", "topic", "😀", "--bundle", tiny_bundle)
    assert done.returncode == 0
    assert "(no known tokens)" in done.stdout
