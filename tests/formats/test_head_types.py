"""The registry of head types, and what they need of files and bundles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpt_edge
from mpt_edge.formats import head_types
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.head_types import HeadType, find_head_type, head_type_names, register
from mpt_edge.formats.linear_head import LinearHead, LinearLayer
from mpt_edge.formats.placement import PEFT_PLACEMENT
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile


class Scored(HeadType):
    """A head type with one output per label and at least three labels."""

    name = "scored"
    min_labels = 3

    @classmethod
    def outputs(cls, labels: int) -> int:
        return labels


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(head_types, "_REGISTRY", dict(head_types._REGISTRY))
    assert register(Scored) is Scored
    yield
    monkeypatch.undo()


def make_task(**changes: object) -> TaskFile:
    values = {"name": "t", "head_type": "scored", "labels": ("a", "b", "c"), "u": np.ones(2), "v": np.ones(4)}
    return TaskFile(**values | {"backbone": "", "tokenizer": "", "prompt": "mpt"} | changes)  # type: ignore[arg-type]


def own_prompt(outputs: int | None) -> SharedPrompt:
    layer = LinearLayer(np.ones((outputs or 1, 4), np.float32), np.ones(outputs or 1, np.float32))
    head = LinearHead((layer,)) if outputs else None
    return SharedPrompt("t", np.ones((2, 4), np.float32), PEFT_PLACEMENT, "", head=head)


def test_shipped_types_are_registered() -> None:
    assert mpt_edge.__version__  # the package registers them
    shipped = [
        "choice", "classifier", "embedding", "generation", "label_vectors", "mask", "similarity", "span", "tokens",
    ]  # fmt: skip
    assert head_type_names() == shipped
    assert all(find_head_type(name).name == name for name in shipped)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["guess", "", None])
def test_unknown_name(name: str | None) -> None:
    assert find_head_type(name) is None


@pytest.mark.usefixtures("registered")
def test_registered_type_is_found() -> None:
    assert find_head_type("scored") is Scored
    assert "scored" in head_type_names()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"labels": ("a", "b")}, "it needs at least 3 labels, all different"),
        ({"labels": ("a", "a", "b")}, "it needs at least 3 labels, all different"),
        ({"label_texts": (("x",), ("y",))}, "labels and label texts do not pair up"),
        ({"own_prompt": own_prompt(3)}, None),
        ({"own_prompt": own_prompt(2)}, "its linear head does not fit the head type"),
        ({"own_prompt": own_prompt(None)}, "its linear head does not fit the head type"),
    ],
)
def test_problems(changes: dict[str, object], problem: str | None) -> None:
    assert next(Scored.problems(make_task(**changes)), None) == problem


def test_misfits(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert list(Scored.misfits(manifest)) == []
    generative = replace(manifest, generation=object())
    assert list(Scored.misfits(generative)) == ["kind of model than this encoder one"]
