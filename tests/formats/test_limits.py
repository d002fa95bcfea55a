"""Limits of tasks, prompts and manifests, at their largest value and one above it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpt_edge.errors import CorruptFileError, UnknownTaskError
from mpt_edge.formats import tensors
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.limits import (
    MAX_HEADER,
    MAX_LABEL,
    MAX_LABEL_TEXTS,
    MAX_LAYERS,
    MAX_LENGTH,
    MAX_PLACEHOLDERS,
    MAX_PROMPT_LENGTH,
    MAX_TEMPLATE,
)
from mpt_edge.formats.prompts import SharedPrompt
from mpt_edge.formats.taskfile import TaskFile
from tests.support.bundles import edit


def labels(count: int, length: int = 8) -> dict[str, Any]:
    names = tuple(f"{i:0{length}}" for i in range(count))
    return {"labels": names, "label_texts": tuple((name,) for name in names)}


LIMITS: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "labels": (
        lambda more: labels(MAX_LABEL_TEXTS + more),
        "it has 1,025 labels or label texts, more than 1,024; train",
    ),
    "label texts": (
        lambda more: {"label_texts": (("a",) * (MAX_LABEL_TEXTS - 1 + more), ("b",))},
        "it has 1,025 labels or label texts, more than 1,024; train",
    ),
    "a label": (
        lambda more: labels(2, MAX_LABEL + more),
        "a label or label text has 16,385 characters, more than 16,384; train",
    ),
    "a label text": (
        lambda more: {"label_texts": (("a",), ("b" * (MAX_LABEL + more),))},
        "a label or label text has 16,385 characters, more than 16,384; train",
    ),
    "template": (
        lambda more: {"template": "{text}".ljust(MAX_TEMPLATE + more)},
        "its template has 16,385 characters, more than 16,384; train",
    ),
    "placeholders": (
        lambda more: {"template": "{text}" * (MAX_PLACEHOLDERS + more)},
        "its template repeats the text 9 times, more than 8; train",
    ),
    "max_length": (lambda more: {"max_length": MAX_LENGTH + more}, "max_length is above 1,048,576; train"),
    "prompt": (
        lambda more: {"u": np.ones(MAX_PROMPT_LENGTH + more, np.float16)},
        "its prompt has 513 virtual tokens, more than 512; train",
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_task_beyond_a_limit(task_file: Callable[..., Path], limit: str) -> None:
    changes, says = LIMITS[limit]
    TaskFile.load(task_file(**changes(0)))
    with pytest.raises(CorruptFileError, match=says):
        TaskFile.load(task_file(**changes(1)))


def test_a_prompt_beyond_the_limit(shared_prompt: SharedPrompt, tmp_path: Path) -> None:
    for length in (MAX_PROMPT_LENGTH, MAX_PROMPT_LENGTH + 1):
        replace(shared_prompt, values=np.ones((length, 4), np.float16)).save(tmp_path / f"{length}")
    assert SharedPrompt.load(tmp_path / "512").length == 512
    with pytest.raises(CorruptFileError, match="513: its prompt has 513 virtual tokens, more than 512; train a short"):
        SharedPrompt.load(tmp_path / "513")


def test_a_header_beyond_the_limit_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    header = json.dumps({"__metadata__": {"a": " " * MAX_HEADER}}).encode()
    monkeypatch.setattr(tensors, "_load", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(CorruptFileError, match="here has a header of more than 6,291,456 bytes"):
        tensors.parse(len(header).to_bytes(8, "little") + header, "here")


@pytest.mark.parametrize(("entry", "value"), [("layers", MAX_LAYERS + 1), ("max_length", MAX_LENGTH + 1)])
def test_a_manifest_beyond_a_limit(folder: Path, entry: str, value: int) -> None:
    edit(folder, lambda entries: entries.update({entry: value - 1}))
    Bundle.open(folder)
    edit(folder, lambda entries: entries.update({entry: value}))
    with pytest.raises(CorruptFileError, match=f"the entry {entry!r} cannot be used"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "data", [b'{"schema": 1, "name": "\\ud800"}', '{"schema": 1}'.encode("utf-16"), b'{"\xed\xa0\x80"}']
)
def test_half_a_character_in_a_manifest(folder: Path, data: bytes) -> None:
    (folder / "bundle.json").write_bytes(data)
    with pytest.raises(CorruptFileError, match="is not a bundle manifest"):
        Bundle.open(folder)


def test_a_long_name_is_refused_quickly_and_not_repeated(tiny_bundle: Path) -> None:
    name, names = "x" * 10_000_000, [f"task{i}" for i in range(1000)]
    with pytest.raises(UnknownTaskError):
        Bundle.open(tiny_bundle).task(name)
    error = UnknownTaskError(name, names, "here")
    assert len(error.name) < 100
    assert "and 920 more" in str(error)
    assert len(str(error)) < 2000
