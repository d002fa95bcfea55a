"""Each text is tokenized exactly once: by models of both families, and by the command with and without bad rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mpt_edge
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.model import Model
from tests.support.answers import LONG, rows
from tests.support.commands import run_here
from tests.support.counting import count_texts
from tests.support.writers import TEXTS


@pytest.fixture
def encoder(tiny_bundle: Path, tmp_path: Path) -> Model:
    """Return the small encoder with tasks of several length limits, templates and head types, all selected."""
    model, topic = mpt_edge.load(tiny_bundle, threads=1), Bundle.open(tiny_bundle).task("topic")
    changes: list[dict[str, Any]] = [
        {"name": "short", "max_length": 8},
        {"name": "vector", "head_type": "embedding", "labels": (), "label_texts": ()},
        {"name": "templated", "template": "the {text} film"},
    ]
    for change in changes:
        replace(topic, **change).save(tmp_path / "t")
        model.add_task(tmp_path / "t")
    for name in model.tasks:
        model.task(name)
    return model


def test_a_mixed_run_of_an_encoder(encoder: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["short", "topic", "vector", "sentiment"] * 10
    texts = [*rows(39), LONG]
    seen = count_texts(monkeypatch)
    encoder.run(texts, names)
    assert sorted(text[:32] for text in seen) == sorted(text[:32] for text in texts)
    seen.clear()
    encoder.run(["a film", ("good", "bad")], ["templated", "same"])
    assert sorted(seen) == ["bad", "good", "the a film film"]


@pytest.mark.parametrize("call", ["call", "embed", "bare", "scores"])
def test_other_calls_of_an_encoder(encoder: Model, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    task = encoder.task("topic")
    texts = rows(5)
    seen = count_texts(monkeypatch)
    {"call": task, "embed": task.embed, "bare": encoder.embed, "scores": task.scores}[call](texts)
    assert seen == texts


def test_bad_texts_are_not_tokenized(encoder: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_texts(monkeypatch)
    results = encoder.prepare(["a film", "", 3, "dull"], ["topic", "topic", "topic", "unknown"])
    assert seen == ["a film"]
    encoder.answer([results[0]])  # type: ignore[list-item]
    assert seen == ["a film"]


@pytest.mark.parametrize("beams", [1, 2])
def test_a_mixed_run_of_a_generative_model(writer_bundle: Path, monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    model = mpt_edge.load(writer_bundle, threads=1)
    names = ["story", "ask", "mood"]
    for name in names:
        model.task(name)
    seen = count_texts(monkeypatch)
    model.run(TEXTS, names, num_beams=beams, max_new_tokens=5)
    assert seen == [TEXTS[0], f"Question: {TEXTS[1]}\nAnswer:", TEXTS[2]]


def test_a_stream(writer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = mpt_edge.load(writer_bundle, threads=1).task("story")
    seen = count_texts(monkeypatch)
    assert list(task.stream(TEXTS[0], max_new_tokens=5))
    assert seen == [TEXTS[0]]


@pytest.mark.parametrize("skips", [False, True])
def test_the_command(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skips: bool) -> None:
    """A batch with bad rows costs no second pass, and the label texts of a task are read once."""
    texts = rows(20)
    entries: list[dict[str, object]] = [{"text": text, "task": "topic"} for text in texts]
    if skips:
        for position, bad in ((3, {"text": ""}), (7, {"text": "x", "task": "topik"}), (11, {"text": 5}), (12, {})):
            entries.insert(position, {"task": "topic", **bad})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, entries)))
    options = ["--input", tmp_path / "rows.jsonl", "--bundle", tiny_bundle, "--threads", 1, "--json"]
    seen = count_texts(monkeypatch)
    result = run_here("run", *options, *(["--on-error", "skip"] if skips else []))
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 20
    assert ("skipped 4 of 24 rows" in result.stderr) == skips
    assert sorted(seen) == sorted([*texts, "ball game", "vote party", "atom cell"])


@pytest.mark.parametrize("name", ["story", "ask", "mood"])
def test_the_command_with_a_generative_model(
    writer_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    entries = [{"text": text} for text in ("", *TEXTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, entries)))
    template = Bundle.open(writer_bundle).task(name).template or "{text}"
    seen = count_texts(monkeypatch)
    options = ["--bundle", writer_bundle, "--threads", 1, "--json", "--on-error", "skip"]
    result = run_here("run", "--task", name, "--input", tmp_path / "rows.jsonl", *options)
    assert len(result.stdout.splitlines()) == len(TEXTS)
    assert [text for text in seen if any(each in text for each in TEXTS)] == [
        template.replace("{text}", text) for text in TEXTS
    ]
